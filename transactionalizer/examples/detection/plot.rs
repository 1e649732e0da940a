//! The table as a picture: one panel a trace, detection time to the right, false suspicions upwards, both logarithmic.

use std::fmt::Write;

use super::Point;
use super::traces::Trace;

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 46.0;
const COLUMNS: usize = 3;
/// Decades of detection time, from 10 ms to 100 s.
const TIME: (f64, f64) = (1.0, 5.0);
/// Decades of false suspicions in a million; what is below one, none for instance, lies on the axis.
const WRONG: (f64, f64) = (0.0, 6.0);

fn share(value: f64, (from, to): (f64, f64)) -> f64 {
    ((value.max(1e-9).log10() - from) / (to - from)).clamp(0.0, 1.0)
}

fn x(millis: f64) -> f64 {
    MARGIN + share(millis, TIME) * (WIDTH - MARGIN - 10.0)
}

fn y(wrong: f64) -> f64 {
    HEIGHT - MARGIN - share(wrong, WRONG) * (HEIGHT - MARGIN - 26.0)
}

/// The whole picture.
pub(crate) fn svg(panels: &[(Trace, Vec<Point>)]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64 + 30.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, (trace, points)) in panels.iter().enumerate() {
        let (column, row) = (number % COLUMNS, number / COLUMNS);
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<g transform=\"translate({},{})\">\n{}</g>",
            column as f64 * WIDTH,
            row as f64 * HEIGHT,
            panel(trace.name(), points)
        );
    }
    svg + &legend(height - 12.0) + "</svg>\n"
}

fn panel(title: &str, points: &[Point]) -> String {
    let mut svg = format!("<text x=\"{MARGIN}\" y=\"16\" font-weight=\"bold\">{title}</text>\n");
    let (left, right, bottom, top) = (MARGIN, WIDTH - 10.0, HEIGHT - MARGIN, 26.0);
    for (label, millis) in [("10 ms", 10.0), ("100 ms", 100.0), ("1 s", 1e3), ("10 s", 1e4), ("100 s", 1e5)] {
        let at = x(millis);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {top}V{bottom}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{}\" \
             text-anchor=\"middle\">{label}</text>",
            bottom + 13.0
        );
    }
    for (label, wrong) in [("none", 0.0), ("100", 1e2), ("10⁴", 1e4), ("10⁶", 1e6)] {
        let at = y(wrong);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{label}</text>",
            left - 4.0,
            at + 3.0
        );
    }
    let fixed: Vec<String> = points
        .iter()
        .filter(|point| point.name.starts_with("fixed"))
        .map(|point| format!("{:.1},{:.1}", x(point.p99), y(point.wrong)))
        .collect();
    let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#888\"/>", fixed.join(" "));
    for point in points {
        let _ = writeln!(svg, "{}", mark(&point.name, x(point.p99), y(point.wrong)));
    }
    svg
}

fn mark(name: &str, x: f64, y: f64) -> String {
    let colour = colour(name);
    let size = if name.starts_with("fixed") { 2.0 } else { 4.5 };
    format!(
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size}\" fill=\"{colour}\"><title>{name}</title></circle>"
    )
}

fn colour(name: &str) -> &'static str {
    match name {
        _ if name.starts_with("fixed") => "#888",
        _ if name.starts_with("heartbeat") => "#2b6cb0",
        _ if name.ends_with("host") => "#2f855a",
        _ => "#c53030",
    }
}

fn legend(y: f64) -> String {
    let mut svg = String::new();
    for (number, name) in [
        "adaptive, frozen application",
        "adaptive, dead host",
        "fixed timeouts, 10 ms to 5 s",
        "heartbeats, 1 to 10 s",
    ]
    .into_iter()
    .enumerate()
    {
        let at = MARGIN + 170.0 * number as f64;
        let _ =
            writeln!(svg, "{}<text x=\"{}\" y=\"{}\">{name}</text>", mark(name, at, y - 3.0), at + 9.0, y);
    }
    svg + &format!(
        "<text x=\"{}\" y=\"{y}\" fill=\"#666\">p99 of the detection time →, false suspicions in a million ↑</text>\n",
        MARGIN + 660.0
    )
}
