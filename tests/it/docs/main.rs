//! The documentation against the thing itself: the guide's statements run, and the reference is what a server
//! with the extension says of itself. `UPDATE_DOCS=1` writes the reference anew, and what a drill
//! leaves.

mod cluster;
mod compliance;
mod doctor;
mod drivers;
mod escrow;
mod four_eyes;
mod front;
mod guide;
mod keys;
mod links;
mod monitoring;
mod pages;
mod reference;
mod report;
mod search;

/// A file of the repository.
fn repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

/// The bodies of a document's blocks in one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence)
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap_or_default().to_string())
        .collect()
}
