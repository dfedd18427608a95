//! Values: what a type's value is as bytes (`codec`), what it is bound to (`context`), and how it is encrypted and
//! decrypted (`seal`, `reseal`).

pub mod ciphertext;
pub mod codec;
pub mod context;
pub mod formers;
pub mod opens;
pub mod reseal;
pub mod same;
pub mod seal;
pub mod shape;
