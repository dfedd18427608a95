//! Which rows are under which key version: counted (`census`), found (`holders`), listed when a version is compromised
//! (`exposure`). Read by table scan, with no owner's code and no owner's rights in the way.

pub mod census;
pub mod exposure;
pub mod holders;
