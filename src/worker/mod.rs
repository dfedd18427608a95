//! Workers: a launcher starts short-lived ones, a few at a time (`dispatch`), so that no database is held open. A
//! database has up to four (`jobs::lane`): the keeper writes records and counts and rotates by schedule (`schedule`);
//! the destroyer destroys what is due (`destruction`); the others move rows, batch by batch (`job`), each batch one
//! transaction that also records how far it got. Only these run code of tables' owners, for a limited time.

pub mod destruction;
pub mod dispatch;
pub mod job;
pub mod keks;
pub mod launcher;
pub mod pause;
pub mod process;
pub mod schedule;
pub mod vacuum;
