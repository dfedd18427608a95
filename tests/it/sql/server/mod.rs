//! The extension in a server: installed, updated, copied, replicated.

mod copies;
mod extension;
mod newer;
mod releases;
mod replicas;
