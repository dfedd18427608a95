//! Verbs of the life cycle as acts: those that bring a key into use, or back, and the one that ends it wait on a
//! four-eyes keyring.

use colcrypt_core::state::Verb;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::catalog::read;
use crate::error::Result;
use crate::keys::approval::{Gated, Target};
use crate::keys::lifecycle::Order;

/// An [`Order`] but its verb, which is the request's function.
#[derive(Serialize, Deserialize)]
pub struct Arguments {
    key: String,
    version: Option<i32>,
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destroy_after_ms: Option<i64>,
    /// Whether rows that need the version are lost with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shred: bool,
}

impl Arguments {
    /// The order of a verb with these arguments.
    pub fn of(self, verb: Verb) -> Order {
        Order {
            verb,
            key: self.key,
            version: self.version,
            reason: self.reason,
            destroy_after_ms: self.destroy_after_ms,
            shred: self.shred,
        }
    }
}

impl Gated for Order {
    fn function(&self) -> &'static str {
        self.verb.name()
    }

    fn target(&self) -> Result<Target> {
        Target::key(read::key_by_name(&self.key)?)
    }

    fn check(&self) -> Result<Value> {
        Ok(json!(Arguments {
            key: self.key.clone(),
            version: Order::check(self)?,
            reason: self.reason.clone(),
            destroy_after_ms: self.destroy_after_ms,
            shred: self.shred,
        }))
    }

    fn perform(&self) -> Result<String> {
        Ok(self.carry_out()?.name().into())
    }
}
