//! Whether two executions gave the same response head.

/// Compares the head that was logged, or as much of it as was (`logged`), with the beginning of the one that
/// another execution gave (`other`).
///
/// Equal means: byte for byte, except that the values of fields named in `volatile` (compared without case) may
/// differ at equal length. `Err` is the offset of the first difference; it is `other.len()` if `other` ends
/// before `logged` does, so call it when as many bytes have arrived.
pub fn compare_heads(logged: &[u8], other: &[u8], volatile: &[String]) -> Result<(), usize> {
    let mut offset = 0;
    for (index, line) in logged.split_inclusive(|b| *b == b'\n').enumerate() {
        let theirs = other.get(offset..).unwrap_or_default();
        // The first line is the status line, never volatile.
        let free = if index == 0 { line.len()..line.len() } else { volatile_value(line, volatile) };
        compare_line(line, theirs, &free).map_err(|at| offset + at)?;
        offset += line.len();
    }
    Ok(())
}

fn compare_line(line: &[u8], theirs: &[u8], free: &std::ops::Range<usize>) -> Result<(), usize> {
    for (at, ours) in line.iter().enumerate() {
        match theirs.get(at) {
            Some(byte) if byte == ours => {}
            // A line end would end the value, and its length would differ.
            Some(byte) if free.contains(&at) && !matches!(byte, b'\r' | b'\n') => {}
            _ => return Err(at),
        }
    }
    Ok(())
}

/// The part of a field line, complete or cut off, that may differ; empty if nothing may.
fn volatile_value(line: &[u8], volatile: &[String]) -> std::ops::Range<usize> {
    let nothing = line.len()..line.len();
    let Some(colon) = line.iter().position(|b| *b == b':') else { return nothing };
    let (name, _) = line.split_at(colon);
    if !volatile.iter().any(|v| v.as_bytes().eq_ignore_ascii_case(name)) {
        return nothing;
    }
    let end = line.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(line.len());
    colon + 1..end
}
