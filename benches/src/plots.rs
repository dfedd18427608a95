//! The pictures of docs/performance.md.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::Measured;
use crate::cases::SIZES;

const WIDTH: u32 = 760;
const HEIGHT: u32 = 420;
const OURS: RGBColor = RGBColor(0x1b, 0x6c, 0xa8);
const XAES: RGBColor = RGBColor(0x2a, 0x9d, 0x8f);
const PGCRYPTO: RGBColor = RGBColor(0xc4, 0x4e, 0x3b);
const SODIUM: RGBColor = RGBColor(0x8e, 0x6c, 0xb8);
const FLOOR: RGBColor = RGBColor(0x88, 0x88, 0x88);

/// Draws all of them into a folder.
///
/// # Panics
/// When a file cannot be written.
pub fn draw(folder: &Path, measured: &Measured) {
    std::fs::create_dir_all(folder).expect("the folder of the pictures");
    for (verb, word) in [("enc", "encrypt"), ("dec", "decrypt")] {
        let path = folder.join(format!("{word}.svg"));
        by_size(&path, verb, measured).expect("a picture");
    }
    let bars = |names: &[(&str, &str, RGBColor)]| -> Vec<(String, f64, RGBColor)> {
        let cost = |name: &&str| measured.costs.get(*name).copied();
        let known = names
            .iter()
            .filter_map(|(label, name, color)| Some(((*label).to_owned(), cost(name)?, *color)));
        known.collect()
    };
    let suites = bars(&[
        ("AES-256-GCM, encrypt", "enc_16b", OURS),
        ("AES-256-GCM, decrypt", "dec_16b", OURS),
        ("XAES-256-GCM, encrypt", "enc_16b_xaes", XAES),
        ("XAES-256-GCM, decrypt", "dec_16b_xaes", XAES),
        ("pgcrypto AES-CBC, encrypt", "enc_16b_pgcrypto", PGCRYPTO),
        ("pgcrypto AES-CBC, decrypt", "dec_16b_pgcrypto", PGCRYPTO),
        ("pgsodium AEAD, encrypt", "enc_16b_pgsodium", SODIUM),
        ("pgsodium AEAD, decrypt", "dec_16b_pgsodium", SODIUM),
    ]);
    horizontal(
        &folder.join("suites.svg"),
        "16-byte values, ns each",
        &suites,
    )
    .expect("a picture");
    let rate = measured.result("reencrypt_vs_update");
    let moving = [
        ("plain UPDATE".to_owned(), 1.0, FLOOR),
        ("re-encryption by the worker".to_owned(), rate, OURS),
    ];
    horizontal(
        &folder.join("moving.svg"),
        "rows a second in the same batches, plain UPDATE = 1",
        &moving,
    )
    .expect("a picture");
}

/// Cost by size, ours and the peers', both axes logarithmic.
fn by_size(path: &Path, verb: &str, measured: &Measured) -> Result<(), Box<dyn Error>> {
    let costs = &measured.costs;
    let line = |suffix: &str| -> Vec<(f64, f64)> {
        let of = |label: &str| costs.get(&format!("{verb}_{label}{suffix}")).copied();
        let points = SIZES
            .iter()
            .filter_map(|(label, bytes, _)| Some((*bytes as f64, of(label)?)));
        points.collect()
    };
    let floor: Vec<(f64, f64)> = SIZES
        .iter()
        .zip(&measured.floor)
        .map(|((_, bytes, _), (seal, open))| {
            (*bytes as f64, if verb == "enc" { *seal } else { *open })
        })
        .filter(|(bytes, _)| *bytes >= 1024.0)
        .collect();
    let mut lines = vec![
        ("colcrypt, AES-256-GCM", line(""), OURS),
        ("colcrypt, XAES-256-GCM", line("_xaes"), XAES),
        ("pgcrypto, AES-CBC", line("_pgcrypto"), PGCRYPTO),
        ("the cipher alone", floor, FLOOR),
    ];
    if measured.has_sodium {
        lines.push(("pgsodium, deterministic AEAD", line("_pgsodium"), SODIUM));
    }
    let all = lines
        .iter()
        .flat_map(|(_, points, _)| points)
        .map(|point| point.1);
    let (least, most) = all.fold((f64::MAX, 0.0f64), |(low, high), y| {
        (low.min(y), high.max(y))
    });
    let root = SVGBackend::new(path, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let word = if verb == "enc" { "encrypt" } else { "decrypt" };
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("{word}: ns a value, by its size"),
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(
            (12.0f64..90_000.0).log_scale(),
            (least * 0.8..most * 1.3).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("bytes")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for (name, points, color) in lines {
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Bars that lie, each with its name and number.
fn horizontal(
    path: &Path,
    caption: &str,
    bars: &[(String, f64, RGBColor)],
) -> Result<(), Box<dyn Error>> {
    const LEFT: i32 = 210;
    const BAR: i32 = 26;
    const TOP: i32 = 44;
    let height = TOP + (BAR + 8) * i32::try_from(bars.len())? + 12;
    let root = SVGBackend::new(path, (WIDTH, height.unsigned_abs())).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(caption.to_owned(), (12, 12), ("sans-serif", 18)))?;
    let most = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
    let room = f64::from(WIDTH) - f64::from(LEFT) - 80.0;
    for (nr, (name, value, color)) in bars.iter().enumerate() {
        let top = TOP + (BAR + 8) * i32::try_from(nr)?;
        let right = LEFT + (value / most * room) as i32;
        root.draw(&Rectangle::new(
            [(LEFT, top), (right, top + BAR)],
            color.filled(),
        ))?;
        root.draw(&Text::new(name.clone(), (12, top + 6), ("sans-serif", 14)))?;
        let number = if most < 10.0 {
            format!("{value:.2}")
        } else {
            format!("{value:.0}")
        };
        root.draw(&Text::new(number, (right + 8, top + 6), ("sans-serif", 14)))?;
    }
    root.present()?;
    Ok(())
}
