//! Keys and what may be done with them: providers and root keys (`providers`, `roots`), versions and their life
//! (`rotation`, `lifecycle`), rules (`policy`), grants, acts that wait for a second role (`approval`, `acts`),
//! and what goes with the extension (`drop_guard`).

pub mod acts;
pub mod approval;
pub mod drop_guard;
pub mod dropping;
pub mod escrow;
pub mod exported;
pub mod grantee;
pub mod grants;
pub mod imported;
pub mod kek;
pub mod kek_rotation;
pub mod keks;
pub mod keyring;
pub mod keyring_grants;
pub mod lifecycle;
pub mod many;
pub mod names;
pub mod node;
pub mod nodes;
pub mod orders;
pub mod policy;
pub mod providers;
pub mod root_rotation;
pub mod roots;
pub mod rotation;
pub mod tries;
pub mod verify;
pub mod version;
pub mod window;
pub mod wipe;
pub mod wrapped;
