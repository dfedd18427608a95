//! Roles: who acts, and code that runs as another one.

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    #[link_name = "GetUserId"]
    fn unguarded_get_user_id() -> pg_sys::Oid;
}

/// The current role. Only reads a variable, so it goes without pgrx's guard: it is called per value.
#[inline(always)]
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: GetUserId reads a static and cannot raise (an assertion apart).
    unsafe { unguarded_get_user_id() }
}

/// A role's name, for messages.
pub fn role_name(role: pg_sys::Oid) -> String {
    existing_role_name(role).unwrap_or_else(|| role.to_u32().to_string())
}

/// A role's name, unless the role is gone.
pub fn existing_role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: palloc's a C string, or gives null for a role that is gone.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| {
            std::ffi::CStr::from_ptr(name)
                .to_string_lossy()
                .into_owned()
        })
    }
}

/// Another identity, the caller's given back on drop.
pub struct AsRole {
    user: pg_sys::Oid,
    context: i32,
}

impl AsRole {
    /// The bootstrap superuser, who owns the extension's tables.
    pub fn owner() -> Self {
        Self::switch(
            pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID),
            pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32,
        )
    }

    /// The role whose statement a foreign key goes on with. Nobody else's code may run meanwhile.
    pub fn of_statement(role: pg_sys::Oid) -> Self {
        Self::switch(role, pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32)
    }

    /// A table's owner, unable to do what would outlast the operation: for code that others wrote.
    pub fn restricted(role: pg_sys::Oid) -> Self {
        Self::switch(role, pg_sys::SECURITY_RESTRICTED_OPERATION as i32)
    }

    /// A table's owner to whom no policy applies, not even a forced one: for counting what is there.
    pub fn unfiltered(role: pg_sys::Oid) -> Self {
        Self::switch(
            role,
            (pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS) as i32,
        )
    }

    fn switch(role: pg_sys::Oid, flag: i32) -> Self {
        let mut user = pg_sys::Oid::INVALID;
        let mut context = 0;
        // SAFETY: the way SECURITY DEFINER functions switch; an ERROR before the drop is undone by
        // the transaction's abort.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(role, context | flag);
        }
        Self { user, context }
    }
}

impl Drop for AsRole {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the counterpart of `switch`.
            unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
        }
    }
}
