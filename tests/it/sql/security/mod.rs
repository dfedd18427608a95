//! What is tried, and what is recorded.

mod attempts;
mod audit;
mod honeytoken;
