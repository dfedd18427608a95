//! Keys: their life, grants, rules, counts and root keys.

mod approval;
mod approval_acts;
mod creation;
mod dropping;
mod escrow;
mod escrow_recovery;
mod escrow_retired;
mod escrow_sharing;
mod grants;
mod kek_rotation;
mod known;
mod lifecycle;
mod lifecycle_compromise;
mod lifecycle_destruction;
mod lifecycle_effect;
mod limits;
mod managing;
mod many_versions;
mod schedule;
mod shredding;
mod two_roots;
mod uncompiled;
mod unseen;
mod usage;
mod verifying;
