//! The page: one HTML file with everything in it, for a screen and for paper. It loads nothing and runs nothing; the
//! template escapes whatever is put into it.

use askama::Template;
use serde_json::Value;

use super::{
    blocks::{Block, Chapter, moment},
    chapters,
    charts::WIDTH,
    facts::Facts,
    standards,
};
use crate::screen::printable;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    facts: &'a Facts,
    since: String,
    until: String,
    read_at: String,
    is_broken: bool,
    exceptions: Vec<Linked>,
    chapters: Vec<Chapter>,
    asked: Vec<Asked>,
    width: f64,
}

/// An exception, and the chapter that has more.
struct Linked {
    what: String,
    chapter: String,
    title: String,
}

/// A row of the table of standards.
struct Asked {
    standard: &'static str,
    number: &'static str,
    asks: &'static str,
    chapters: Vec<(&'static str, usize, String)>,
}

/// The whole page.
///
/// # Errors
/// In words, if it cannot be made.
pub fn page(facts: &Facts) -> Result<String, String> {
    let facts = &clean(facts)?;
    let chapters = chapters::all(facts);
    let place = |id: &str| chapters.iter().position(|chapter| chapter.id == id);
    let exceptions = facts
        .exceptions
        .iter()
        .map(|it| Linked {
            what: it.what.clone(),
            chapter: it.chapter.clone(),
            title: place(&it.chapter).map_or_else(
                || "What was left out".into(),
                |at| format!("chapter {}", at + 1),
            ),
        })
        .collect();
    let asked = standards::ASKED
        .iter()
        .map(|asked| Asked {
            standard: asked.standard,
            number: asked.number,
            asks: asked.asks,
            chapters: asked
                .chapters
                .iter()
                .filter_map(|id| {
                    let at = place(id)?;
                    Some((*id, at + 1, chapters[at].title.to_owned()))
                })
                .collect(),
        })
        .collect();
    Page {
        since: moment(&facts.since),
        until: moment(&facts.until),
        read_at: moment(&facts.about.read_at),
        is_broken: facts.chain_is_broken(),
        exceptions,
        chapters,
        asked,
        width: WIDTH,
        facts,
    }
    .render()
    .map_err(|error| error.to_string())
}

/// Names come from whoever made the key or the role: a control character, or one that turns the direction of writing
/// around, would have a reader see another name.
fn clean(facts: &Facts) -> Result<Facts, String> {
    let mut value = serde_json::to_value(facts).map_err(|error| error.to_string())?;
    clean_value(&mut value);
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn clean_value(value: &mut Value) {
    match value {
        Value::String(text) => *text = clean_text(text),
        Value::Array(values) => values.iter_mut().for_each(clean_value),
        Value::Object(fields) => fields.values_mut().for_each(clean_value),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn clean_text(text: &str) -> String {
    printable(&text.replace(['\n', '\t'], " "))
}

#[cfg(test)]
mod tests {
    use super::super::{exceptions::exceptions, facts::*, samples};
    use super::*;

    #[test]
    fn a_name_is_never_markup_and_turns_nothing_around() {
        let hostile = "<script>alert(1)</script>\"'&\u{202e}gnp\u{1b}[2J";
        let mut facts = samples::quiet();
        facts.about.database = hostile.into();
        facts.keyrings = Section::LeftOut(hostile.into());
        facts.grants = Section::Facts(Listed {
            total: 2,
            shown: vec![Grant {
                grantee: hostile.into(),
                keys: 1,
                encrypt: 1,
                decrypt: 0,
                manage: 0,
            }],
        });
        facts.census = Section::Facts(Listed {
            total: 1,
            shown: vec![Census {
                column: hostile.into(),
                rotation: "keep".into(),
                key: hostile.into(),
                version: 1,
                is_current: true,
                state: None,
                rows: 3,
                counted_at: "2026-11-29T12:34:56+00:00".into(),
                shredded: false,
            }],
        });
        facts.exceptions = exceptions(&facts);
        let page = page(&facts).unwrap();
        assert!(!page.contains("<script"), "{page}");
        assert!(
            !page.contains("onerror=") && !page.contains('\u{202e}') && !page.contains('\u{1b}')
        );
        assert!(
            page.contains("&#60;script&#62;alert(1)") || page.contains("&lt;script&gt;alert(1)")
        );
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page = page(&samples::quiet()).unwrap();
        for reference in [
            "http:", "https:", "src=", "url(", "@import", "<link", "<script", "<iframe", "<object",
        ] {
            let harmless = "http://www.w3.org/2000/svg";
            assert!(
                !page.replace(harmless, "").contains(reference),
                "{reference}"
            );
        }
        assert!(page.contains("Content-Security-Policy"));
    }

    #[test]
    fn what_was_not_read_is_not_none() {
        let mut facts = samples::quiet();
        let quiet = page(&facts).unwrap();
        assert!(quiet.contains("No attempt was refused"));
        facts.refusals = Section::LeftOut("permission denied for table audit_log".into());
        let page = page(&facts).unwrap();
        assert!(!page.contains("No attempt was refused"));
        assert!(
            page.contains("Left out") && page.contains("permission denied for table audit_log")
        );
    }
}
