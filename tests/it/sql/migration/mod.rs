//! Columns encrypted and decrypted in place.

mod in_place;
mod in_place_drivers;
mod in_place_tables;
mod in_place_trouble;
mod scrubbing;
mod under_fire;
