//! The distribution of the clients' stalls as an SVG: for each link, which share of them was at most so long.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::case::Condition;
use super::record::Record;
use super::table::stalls;
use crate::faults::Fault;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// The plot's edges within it.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 610.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 370.0;
/// Decades of the time axis: from 0.1 ms to 10 s.
const DECADES: std::ops::RangeInclusive<i32> = -1..=4;
const COLOURS: [&str; 6] = ["#0b6e4f", "#2a9d8f", "#b5179e", "#e9c46a", "#f4a261", "#d62828"];
/// Points of a line at most.
const POINTS: usize = 400;

/// Writes it.
pub(super) fn write(path: &Path, records: &[Record]) -> Result<()> {
    fs::write(path, svg(records)).with_context(|| format!("writing {}", path.display()))
}

fn svg(records: &[Record]) -> String {
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' font-family='sans-serif' font-size='12'>\n\
         <rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>\n\
         <text x='{LEFT}' y='22' font-size='15'>Longest wait of a client after its server failed (solid: killed, dashed: silent)</text>\n"
    );
    axes(&mut out);
    let mut line = 0;
    for (condition, colour) in Condition::ALL.into_iter().zip(COLOURS) {
        for (fault, dashes) in [(Fault::Kill, ""), (Fault::Silent, " stroke-dasharray='5 4'")] {
            let stalls = stalls(records, fault, condition);
            if !stalls.is_empty() {
                let name = if fault == Fault::Kill { "killed" } else { "silent" };
                let label = format!("{}, {name} ({})", condition.name(), stalls.len());
                let style = format!("fill='none' stroke='{colour}' stroke-width='2'{dashes}");
                curve(&mut out, &stalls, &style, &label, line);
                line += 1;
            }
        }
    }
    out + "</svg>\n"
}

fn axes(out: &mut String) {
    for decade in DECADES {
        let (ms, at) = (10_f64.powi(decade), x(10_f64.powi(decade)));
        let label = if ms >= 1000.0 { format!("{} s", ms / 1e3) } else { format!("{ms} ms") };
        vertical(out, at, &label);
    }
    for share in [0.0, 0.25, 0.5, 0.75, 0.99] {
        let at = y(share);
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "<path d='M{LEFT} {at:.1}H{RIGHT}' stroke='#ddd'/><text x='{:.1}' y='{:.1}' text-anchor='end'>{:.0} %</text>",
            LEFT - 6.0,
            at + 4.0,
            share * 100.0
        );
    }
}

fn vertical(out: &mut String, at: f64, label: &str) {
    let _ = writeln!(
        out,
        "<path d='M{at:.1} {TOP}V{BOTTOM}' stroke='#ddd'/><text x='{at:.1}' y='{:.1}' text-anchor='middle'>{label}</text>",
        BOTTOM + 18.0
    );
}

/// One distribution and its line in the legend.
fn curve(out: &mut String, stalls: &[f64], style: &str, label: &str, line: u32) {
    let step = stalls.len().div_ceil(POINTS);
    let points = stalls.iter().zip(1_u32..).filter(|(_, rank)| {
        (*rank as usize).is_multiple_of(step) || *rank == 1 || *rank as usize == stalls.len()
    });
    let points: Vec<String> = points
        .map(|(ms, rank)| format!("{:.1},{:.1}", x(*ms), y(f64::from(rank) / stalls.len() as f64)))
        .collect();
    let at = TOP + 14.0 + 20.0 * f64::from(line);
    let _ = writeln!(
        out,
        "<polyline {style} points='{}'/><path {style} d='M{:.1} {at:.1}h24'/><text x='{:.1}' y='{:.1}'>{label}</text>",
        points.join(" "),
        RIGHT + 10.0,
        RIGHT + 40.0,
        at + 4.0
    );
}

/// Milliseconds, by their logarithm.
fn x(ms: f64) -> f64 {
    let (first, last) = (f64::from(*DECADES.start()), f64::from(*DECADES.end()));
    let place = (ms.max(1e-9).log10().clamp(first, last) - first) / (last - first);
    LEFT + place * (RIGHT - LEFT)
}

fn y(share: f64) -> f64 {
    BOTTOM - share * (BOTTOM - TOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_logarithmic_and_ends_at_its_ends() {
        assert!((x(0.01) - LEFT).abs() < 1e-9 && (x(1e9) - RIGHT).abs() < 1e-9);
        assert!(((x(10.0) - x(1.0)) - (x(100.0) - x(10.0))).abs() < 1e-9);
    }

    #[test]
    fn a_curve_ends_at_the_top() {
        let mut out = String::new();
        curve(&mut out, &[1.0, 2.0, 3.0], "", "x", 0);
        let end = format!("{:.1},{:.1}'", x(3.0), y(1.0));
        assert!(out.contains(&end), "{out}");
        assert!(svg(&[]).ends_with("</svg>\n"));
    }
}
