//! Jobs that move rows to newer versions and other keys.

mod figures;
mod job_control;
mod left;
mod move_column;
mod moving;
mod races;
mod reencryption;
mod rewriting;
mod shown;
mod turns;
mod under_jobs;
mod verify_column;
