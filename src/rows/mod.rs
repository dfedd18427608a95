//! Which rows are under which key version: counted (`census`), found (`holders`), those of one key by an index
//! (`keyed`), listed when a version is compromised (`exposure`), lost on purpose (`lost`). What is out of reach of
//! that is an error (`reach`), but for what only another session or server can look into (`unseen`). Read by table
//! scan, with no owner's code and no owner's rights in the way.

pub mod census;
pub mod exposure;
pub mod holders;
pub mod keyed;
pub mod lost;
mod primary_key;
pub mod reach;
pub mod recheck;
pub mod shards;
pub mod terms;
pub mod unseen;
