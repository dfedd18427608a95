//! Other people's code and other people's power: who else can make a feature work, with what rights. One module a kind
//! of hole; the attackers' roles own what they need and nothing more.

pub use colcrypt_tests::db as common;

mod approval;
mod brought;
mod bystanders;
mod datum;
mod decisions;
mod drowning;
mod expiry;
mod fairness;
mod held;
mod impostors;
mod place;
mod place_default;
mod place_orders;
mod power;
mod sizes;
mod swapped;
mod swapped_jobs;
mod wiped;
