// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a selftest prints, cut to what matters. Pure functions.

/// The number of lines of an excerpt, and of letters of a line.
const LINES: usize = 12;
const LETTERS: usize = 200;

/// The reason of a program that skipped itself.
pub fn skip_reason(output: &str) -> String {
    let of_line = |line: &str| {
        let (_, reason) = line.split_once("SKIP")?;
        let reason = reason.trim_matches(|letter: char| " -:\t".contains(letter));
        (!reason.is_empty()).then(|| short(reason))
    };
    let last = || output.lines().map(str::trim).rfind(|line| !line.is_empty());
    let reason = output.lines().rev().find_map(of_line);
    reason.unwrap_or_else(|| last().map_or("it gives no reason".into(), short))
}

/// The lines that tell what failed: the seed of random numbers, the failed ones
/// of several tests, and the last lines.
pub fn excerpt(output: &str) -> String {
    let lines: Vec<&str> = output
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let (early, late) = lines.split_at(lines.len().saturating_sub(LINES));
    let tells = |line: &&&str| line.starts_with("not ok") || line.starts_with("Random seed");
    let explaining = early.iter().filter(tells).take(LINES);
    let lines: Vec<String> = explaining.chain(late).map(|line| short(line)).collect();
    match lines.is_empty() {
        true => "it printed nothing".into(),
        false => lines.join("\n"),
    }
}

/// The start of a line.
fn short(line: &str) -> String {
    let mut letters = line.trim_end().chars();
    let start: String = letters.by_ref().take(LETTERS).collect();
    match letters.next() {
        Some(_) => start + "…",
        None => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_skip_is_what_the_program_prints() {
        let printed =
            "Random seed: 0x1\n1..0 # SKIP - Requirement not met: kvm_has_cap(KVM_CAP_X)\n";
        assert_eq!(
            skip_reason(printed),
            "Requirement not met: kvm_has_cap(KVM_CAP_X)"
        );
        let printed = "#      SKIP      MSI-x: not supported\n\nok 3 it # SKIP\n";
        assert_eq!(skip_reason(printed), "MSI-x: not supported");
        let printed = "Random seed: 0x1\nMCG_CMCI_P is not supported, skipping test\n\n";
        assert_eq!(
            skip_reason(printed),
            "MCG_CMCI_P is not supported, skipping test"
        );
        assert_eq!(skip_reason(""), "it gives no reason");
    }

    #[test]
    fn an_excerpt_has_the_seed_the_failed_tests_and_the_end() {
        let many: Vec<String> = (0..100).map(|n| format!("ok {n}")).collect();
        let printed = format!(
            "Random seed: 0x7\nnot ok 5 it\n\n{}\n# FAILED: 1\n",
            many.join("\n")
        );
        let excerpt = excerpt(&printed);
        assert!(
            excerpt.starts_with("Random seed: 0x7\nnot ok 5 it\nok 89\n"),
            "{excerpt}"
        );
        assert!(excerpt.ends_with("ok 99\n# FAILED: 1"), "{excerpt}");
        assert_eq!(excerpt.lines().count(), 2 + LINES);
    }

    #[test]
    fn a_long_line_is_cut_and_a_short_one_is_not() {
        let long = "ä".repeat(LETTERS + 1);
        assert_eq!(excerpt(&long), "ä".repeat(LETTERS) + "…");
        assert_eq!(excerpt("one\n\ntwo \n"), "one\ntwo");
        assert_eq!(excerpt(" \n"), "it printed nothing");
    }
}
