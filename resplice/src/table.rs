//! Columns for people.

/// `rows` under `header`, as wide as their contents. Control characters, which could come from a client, are masked.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let masked = rows.iter().map(|row| row.iter().map(|cell| mask(cell)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(masked).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|column| width(&lines, column)).collect();
    let lines = lines.iter().map(|line| format!("  {}\n", join(line, &widths).trim_end()));
    lines.collect::<Vec<_>>().concat()
}

fn width(lines: &[Vec<String>], column: usize) -> usize {
    lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
}

fn join(line: &[String], widths: &[usize]) -> String {
    let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    cells.collect::<Vec<_>>().join("  ")
}

pub(crate) fn mask(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_hold_no_control_characters() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long\x1b[2J".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["name", "n"], &rows), "  name      n\n  a         1\n  long\u{fffd}[2J  22\n");
    }
}
