//! The plot for the README, written by hand: requests a second and processor time for each, by connections.
//!
//! ```text
//! requests/s │   ___ kioskd        CPU µs each │ ___ axum
//!            │  /___ axum                      │ ___ kioskd
//!            └──────── connections             └──────── connections
//! ```
//!
//! Colours follow the reader's light or dark page; each line has its name at its end, so that no legend has to be looked up.

use crate::contenders::{ALL, Contender};
use crate::load::Measured;
use crate::{Row, median};
use std::fmt::Write as _;

const WIDTH: f64 = 890.0;
const HEIGHT: f64 = 320.0;
/// Of a panel's drawing area.
const AREA: (f64, f64) = (260.0, 220.0);

const STYLE: &str =
    "text { font: 12px system-ui, sans-serif; fill: #333 } .title { font-weight: 600 }
.grid { stroke: #8884; stroke-width: 1 } path { fill: none; stroke-linejoin: round }
@media (prefers-color-scheme: dark) { text { fill: #ddd } }";

fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Kioskd => "#d1495b",
        Contender::Axum => "#3d7ea6",
        Contender::NginxLua => "#5a9367",
        Contender::Webdis => "#b07c2a",
        Contender::NginxConstant => "#8a8a8a",
    }
}

/// The rows that differ in nothing but the number of connections.
pub fn plot(rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.workload.name == "GET").collect();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>GET by number of \
         connections</title>\n<style>{STYLE}</style>\n"
    );
    panel(&mut svg, 60.0, "requests a second, in thousands", &rows, |m| m.per_second / 1e3);
    panel(&mut svg, 490.0, "processor time for each, in µs", &rows, |m| m.cpu_us);
    svg + "</svg>\n"
}

fn panel(svg: &mut String, left: f64, title: &str, rows: &[&Row], of: fn(&Measured) -> f64) {
    let (width, height) = AREA;
    let (top, bottom) = (50.0, 50.0 + height);
    let value = |row: &Row, contender| Some(median(row.rounds(contender)?.iter().map(of)));
    let highest = ALL
        .iter()
        .flat_map(|each| rows.iter().filter_map(|row| value(row, *each)))
        .fold(1.0, f64::max);
    let step = nice_step(highest / 4.0);
    let y = |value: f64| bottom - value / (step * (highest / step).ceil()) * height;
    let x = |n: usize| left + width * n as f64 / (rows.len().max(2) - 1) as f64;

    let _ = writeln!(svg, "<text class=\"title\" x=\"{left}\" y=\"24\">{title}</text>");
    for n in 0..=(highest / step).ceil() as usize {
        let (at, label) = (y(n as f64 * step), n as f64 * step);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{left} {at:.1}h{width}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            left - 8.0,
            at + 4.0
        );
    }
    for (n, row) in rows.iter().enumerate() {
        let (at, label) = (x(n), row.workload.connections);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 20.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">connections</text>",
        left + width / 2.0,
        bottom + 38.0
    );

    let mut names = Vec::new();
    for contender in ALL {
        let points: Vec<(f64, f64)> = rows
            .iter()
            .enumerate()
            .filter_map(|(n, row)| Some((x(n), y(value(row, contender)?))))
            .collect();
        let words: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        if let Some(&(_, last)) = points.last() {
            let colour = colour(contender);
            let width = if contender == Contender::Kioskd { 3 } else { 2 };
            let _ = writeln!(
                svg,
                "<path stroke=\"{colour}\" stroke-width=\"{width}\" d=\"M{}\"/>",
                words.join("L")
            );
            names.push((last, contender));
        }
    }
    // Lines that end close together: the names go down until each has a line of its own.
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free: f64 = top;
    for (end, contender) in names {
        let at = free.max(end + 4.0);
        free = at + 14.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{at:.1}\" style=\"fill:{}\">{}</text>",
            left + width + 8.0,
            colour(contender),
            contender.name()
        );
    }
}

/// 1, 2 or 5 times a power of ten, and no less than `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(power)
}
