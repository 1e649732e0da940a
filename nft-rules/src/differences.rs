//! What two listings of a table have not in common.

/// Longest listing that is compared line by line; of longer ones only the common beginning and end are left out.
const MAX_LINES: usize = 1000;

/// Rules and settings of one that the other has not, in order, each with the chain or set that it is in.
pub(crate) fn differences(installed: &str, wanted: &str) -> Vec<String> {
    let (installed, wanted) = (flat(installed), flat(wanted));
    let start = installed.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
    let rest = installed.len().min(wanted.len()) - start;
    let end = installed.iter().rev().zip(wanted.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let middle = |lines: &[String]| lines.get(start..lines.len() - end).unwrap_or_default().to_vec();
    let (removed, added) = (middle(&installed), middle(&wanted));
    let common =
        if removed.len().max(added.len()) > MAX_LINES { Vec::new() } else { common(&removed, &added) };
    let (removed_common, added_common): (Vec<usize>, Vec<usize>) = common.into_iter().unzip();
    [signed("-", &removed, &removed_common), signed("+", &added, &added_common)].concat()
}

/// `chain NAME: RULE` for each line inside a block. Blocks are sorted: their order says only when they were made.
fn flat(listing: &str) -> Vec<String> {
    let mut block = "";
    let mut lines = Vec::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix('{') {
            block = name.trim_end();
            lines.push((block, block.to_owned()));
        } else if line == "}" {
            block = "";
        } else if !line.is_empty() {
            lines.push((block, format!("{block}: {line}")));
        }
    }
    lines.sort_by_key(|(block, _)| *block);
    lines.into_iter().map(|(_, line)| line).collect()
}

fn signed(sign: &str, lines: &[String], common: &[usize]) -> Vec<String> {
    let differs = |(index, _): &(usize, &String)| !common.contains(index);
    lines.iter().enumerate().filter(differs).map(|(_, line)| format!("{sign} {line}")).collect()
}

/// The longest common subsequence, as pairs of places.
fn common(a: &[String], b: &[String]) -> Vec<(usize, usize)> {
    let lengths = common_lengths(a, b);
    let length = |i: usize, j: usize| lengths.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0);
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < a.len() && j < b.len() {
        if a.get(i) == b.get(j) {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if length(i + 1, j) >= length(i, j + 1) {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

/// For each pair of places, how much the rests have in common; built from the end.
fn common_lengths(a: &[String], b: &[String]) -> Vec<Vec<u32>> {
    let mut rows = vec![vec![0; b.len() + 1]];
    for line in a.iter().rev() {
        let mut row = vec![0; b.len() + 1];
        for (j, other) in b.iter().enumerate().rev() {
            let below = |at: usize| rows.last().and_then(|row: &Vec<u32>| row.get(at)).copied().unwrap_or(0);
            let right = row.get(j + 1).copied().unwrap_or(0);
            let here = if line == other { below(j + 1) + 1 } else { below(j).max(right) };
            if let Some(place) = row.get_mut(j) {
                *place = here;
            }
        }
        rows.push(row);
    }
    rows.reverse();
    rows
}

#[cfg(test)]
mod tests {
    use super::differences;

    const LISTING: &str = "table ip t {\n\tchain a {\n\t\tx\n\t\ty\n\t}\n\n\tchain b {\n\t\tz\n\t}\n}\n";

    #[test]
    fn equal_listings_have_none() {
        assert!(differences(LISTING, LISTING).is_empty());
    }

    #[test]
    fn single_rules_are_told_with_their_chain() {
        assert_eq!(differences(&LISTING.replace("\t\ty\n", ""), LISTING), ["+ chain a: y"]);
        assert_eq!(differences(&LISTING.replace('z', "z\n\t\tq"), LISTING), ["- chain b: q"]);
        let both = LISTING.replace("\t\ty\n", "").replace('z', "w");
        assert_eq!(differences(&both, LISTING), ["- chain b: w", "+ chain a: y", "+ chain b: z"]);
    }

    #[test]
    fn the_order_of_rules_counts() {
        let swapped = LISTING.replace("x\n\t\ty", "y\n\t\tx");
        assert_eq!(differences(&swapped, LISTING).len(), 2);
    }

    #[test]
    fn the_order_of_chains_does_not() {
        let other = "table ip t {\n\tchain b {\n\t\tz\n\t}\n\n\tchain a {\n\t\tx\n\t\ty\n\t}\n}\n";
        assert!(differences(other, LISTING).is_empty());
    }

    #[test]
    fn long_listings_are_compared_roughly() {
        let long = |last: &str| format!("{}{last}\n", "a\nb\n".repeat(2000));
        assert_eq!(differences(&long("x"), &long("y")), ["- : x", "+ : y"]);
    }
}
