//! A sheet of paper with one share: its words, numbered, and a QR code of them.

use colcrypt_escrow::record::{Place, Record};
use pdf_writer::{Content, Finish, Name, Pdf, Rect, Ref, Str};
use qrcode::{Color, EcLevel, QrCode};
use zeroize::Zeroizing;

/// A4, in points.
const WIDTH: f32 = 595.0;
const HEIGHT: f32 = 842.0;
const MARGIN: f32 = 56.0;
const QR: f32 = 190.0;
const PLAIN: Name = Name(b"F1");
const FIXED: Name = Name(b"F2");

/// As PDF.
///
/// # Errors
/// When the words do not fit a QR code, which those of a share do.
pub fn pdf(record: &Record, place: Place, words: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let [catalog, pages, page, plain, fixed, drawn] = [1, 2, 3, 4, 5, 6].map(Ref::new);
    let mut pdf = Pdf::new();
    pdf.catalog(catalog).pages(pages);
    pdf.pages(pages).kids([page]).count(1);
    let mut sheet = pdf.page(page);
    sheet
        .media_box(Rect::new(0.0, 0.0, WIDTH, HEIGHT))
        .parent(pages)
        .contents(drawn);
    sheet
        .resources()
        .fonts()
        .pair(PLAIN, plain)
        .pair(FIXED, fixed);
    sheet.finish();
    for (font, name) in [(plain, &b"Helvetica"[..]), (fixed, b"Courier")] {
        pdf.type1_font(font)
            .base_font(Name(name))
            .encoding_predefined(Name(b"WinAnsiEncoding"));
    }
    let content = Zeroizing::new(content(record, place, words)?);
    pdf.stream(drawn, &content);
    Ok(Zeroizing::new(pdf.finish()))
}

fn content(record: &Record, place: Place, words: &str) -> Result<Vec<u8>, String> {
    let circle = record.groups.get(usize::from(place.group));
    let (circle, holder) = circle
        .zip(record.holder(place))
        .ok_or("no holder has this place")?;
    let mut content = Content::new();
    let mut y = HEIGHT - MARGIN;
    let mut line = |content: &mut Content, font, size: f32, text: &str| {
        y -= size * 1.5;
        write(content, font, size, MARGIN, y, text);
        y
    };
    line(
        &mut content,
        PLAIN,
        20.0,
        &format!("Escrow {}", record.name),
    );
    line(
        &mut content,
        PLAIN,
        14.0,
        &format!("Share of {}", holder.name),
    );
    let takes = format!(
        "Of the {} shares of {} it takes {}; of {} groups it takes {}.",
        circle.holders.len(),
        circle.name,
        circle.needed,
        record.groups.len(),
        record.groups_needed
    );
    line(&mut content, PLAIN, 10.0, &takes);
    line(
        &mut content,
        PLAIN,
        10.0,
        &format!("Escrow's fingerprint {}", record.fingerprint()),
    );
    line(&mut content, PLAIN, 10.0, "");
    line(
        &mut content,
        PLAIN,
        10.0,
        "Keep it where nobody else looks. Nobody who asks for it by mail or telephone is to have it.",
    );
    let top = line(
        &mut content,
        PLAIN,
        10.0,
        "Show each quarter that it is whole:  colcrypt escrow check --record RECORD",
    ) - 24.0;
    let list: Vec<&str> = words.split(' ').collect();
    let rows = list.len().div_ceil(3);
    for (at, word) in list.iter().enumerate() {
        let (column, row) = (at / rows, at % rows);
        let numbered = Zeroizing::new(format!("{:>2} {word}", at + 1));
        let x = MARGIN + column as f32 * 160.0;
        write(
            &mut content,
            FIXED,
            13.0,
            x,
            top - row as f32 * 22.0,
            &numbered,
        );
    }
    let code = QrCode::with_error_correction_level(words.as_bytes(), EcLevel::M)
        .map_err(|error| error.to_string())?;
    let dot = QR / code.width() as f32;
    let bottom = top - rows as f32 * 22.0 - 20.0;
    for (at, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            let (x, y) = ((at % code.width()) as f32, (at / code.width()) as f32);
            content.rect(MARGIN + x * dot, bottom - (y + 1.0) * dot, dot, dot);
        }
    }
    content.fill_nonzero();
    write(
        &mut content,
        PLAIN,
        9.0,
        MARGIN,
        bottom - QR - 16.0,
        "The square says the same words. Whoever photographs it has the share.",
    );
    Ok(content.finish().into_vec())
}

fn write(content: &mut Content, font: Name, size: f32, x: f32, y: f32, text: &str) {
    // The fonts that every reader has know Latin letters.
    let latin: Zeroizing<Vec<u8>> = Zeroizing::new(
        text.chars()
            .map(|c| u8::try_from(c).unwrap_or(b'?'))
            .collect(),
    );
    content.begin_text();
    content.set_font(font, size);
    content.next_line(x, y);
    content.show(Str(&latin));
    content.end_text();
}
