// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads region dumps as people paste them: quoted, indented, between prompts,
//! or printed by another command.

const DUMP: &str = "\
address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, i/o): system
    0000000000000000-0000000000000fff (prio 0, ram): a
    0000000000001000-0000000000001fff (prio 0, ram): alias b @target 0000000000000000-0000000000000fff

address-space: I/O
  0000000000000000-000000000000ffff (prio 0, i/o): io

memory-region: target
  0000000000000000-0000000000000fff (prio 0, ram): target

";

fn flat(text: &str) -> String {
    match qemu_mtree::read("a.tree", text) {
        Ok(machine) => machine.flat_text(),
        Err(error) => panic!("{error}\n{text}"),
    }
}

/// Returns the line and the text of a dump's error.
fn wrong(text: &str) -> String {
    match qemu_mtree::read("a.tree", text) {
        Ok(_) => panic!("{text}"),
        Err(error) => format!("{}: {}", error.line, error.what),
    }
}

/// Puts a mark before every line.
fn marked(mark: &str) -> String {
    DUMP.lines().map(|line| format!("{mark}{line}\n")).collect()
}

#[test]
fn a_dump_that_is_quoted_or_indented_as_a_whole_is_the_same() {
    for mark in ["> ", ">", "> > ", "  ", "    ", "\t", "| ", " > "] {
        assert_eq!(flat(&marked(mark)), flat(DUMP), "{mark}");
        // Mails lose trailing spaces.
        let trimmed: String = marked(mark)
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect();
        assert_eq!(flat(&trimmed), flat(DUMP), "{mark}");
    }
    let quoted = format!("On Monday, somebody wrote:\n{}", marked("> "));
    assert!(wrong(&quoted).starts_with("1: 0 spaces before a region"));
    for whole in [
        format!("\u{feff}{DUMP}"),
        DUMP.replace('\n', "\r\n"),
        DUMP.replace('\n', "\r\r\n"),
    ] {
        assert_eq!(flat(&whole), flat(DUMP));
    }
}

#[test]
fn a_line_whose_mark_differs_is_named() {
    let quoted = marked("> ");
    let without = quoted.replacen(">     0", "    0", 1);
    assert_eq!(
        wrong(&without),
        "3: expected '> ' in front, as in other lines"
    );
    for mark in ["> ", "+", "-", "**", "| ", "* ", "\t", "(qemu) "] {
        for (n, line) in DUMP
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
        {
            let lines = DUMP.lines().enumerate().map(|(at, line)| {
                let mark = if at == n { mark } else { "" };
                format!("{mark}{line}\n")
            });
            let text: String = lines.collect();
            assert!(qemu_mtree::read("a.tree", &text).is_err(), "{mark}{line}");
        }
    }
}

#[test]
fn an_empty_line_in_a_tree_is_blamed_itself() {
    let said = wrong(include_str!("cases/mtree-blank-line.txt"));
    assert!(
        said.starts_with("4: empty line inside a tree; expected none"),
        "{said}"
    );
    let prompt = DUMP.replacen("    0000000000001000", "(qemu) \n    0000000000001000", 1);
    let said = wrong(&prompt);
    assert!(
        said.starts_with("4: prompt inside a tree; expected none"),
        "{said}"
    );
    let between = DUMP.replace("\n\n", "\n\n\n(qemu) \n");
    assert_eq!(flat(&between), flat(DUMP));
}

#[test]
fn a_flat_view_is_reported_as_one() {
    let what = "this is `info mtree -f`, already flat; print `info mtree -D`";
    let flat = include_str!("cases/mtree-flat-given.txt");
    assert_eq!(wrong(flat), format!("1: {what}"));
    let quoted: String = flat.lines().map(|line| format!("> {line}\n")).collect();
    assert_eq!(wrong(&quoted), format!("1: {what}"));
    let (_, rest) = flat.split_once('\n').unwrap();
    assert_eq!(wrong(rest), format!("1: {what}"));
    let session = format!("(qemu) info mtree -f\r\n{}", flat.replace('\n', "\r\n"));
    assert_eq!(wrong(&session), format!("2: {what}"));
    assert_eq!(wrong(&format!("{DUMP}{flat}")), format!("12: {what}"));
    let dispatch = DUMP.replacen("\n\n", "\n  Dispatch\n    Physical sections\n\n", 1);
    assert_eq!(wrong(&dispatch), format!("5: {what}"));
}

#[test]
fn owners_are_not_taken_for_names() {
    let what = "this is `info mtree -o`, which also prints owners; print `info mtree -D`";
    for owner in [
        " owner:{dev id=nic path=/machine/peripheral/nic}",
        " parent:{obj path=/machine/unattached}",
        " owner:{obj path=/a} parent:{obj path=/b}",
    ] {
        let owned: String = DUMP
            .lines()
            .map(|line| match line.contains("(prio ") {
                true => format!("{line}{owner}\n"),
                false => format!("{line}\n"),
            })
            .collect();
        assert_eq!(wrong(&owned), format!("2: {what}"), "{owner}");
        let one = DUMP.replacen("ram): a\n", &format!("ram): a{owner}\n"), 1);
        assert_eq!(wrong(&one), format!("3: {what}"), "{owner}");
    }
}

#[test]
fn a_dump_without_the_empty_line_at_its_end_may_be_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let note = |text: &str| {
        let path = folder.path().join("a.tree");
        std::fs::write(&path, text).unwrap();
        let cut_off = qemu_mtree::read_file(&path).unwrap().cut_off;
        cut_off.map(|cut_off| cut_off.to_string())
    };
    let quoted: String = DUMP.lines().map(|line| format!("> {line}\n")).collect();
    let session = format!("{}\n(qemu) ", DUMP.trim_end());
    for whole in [DUMP, &quoted, &session, &DUMP.replace('\n', "\r\n")] {
        assert_eq!(note(whole), None, "{whole}");
    }
    let cut = format!("{}\n", DUMP.trim_end());
    for cut in [cut.as_str(), DUMP.trim_end()] {
        let note = note(cut).unwrap();
        assert!(
            note.contains("a.tree:10: QEMU prints an empty line"),
            "{note}"
        );
    }
}

#[test]
fn an_alias_whose_end_is_cut_off_is_no_region() {
    let alias = " 0000000000000000-0000000000000fff\n";
    for end in ["\n", " 0000000000000000-00000\n", " \n"] {
        let cut = DUMP.replacen(&format!("@target{alias}"), &format!("@target{end}"), 1);
        assert_eq!(
            wrong(&cut),
            "4: expected 'alias NAME @TARGET OFFSET-LAST'",
            "{end:?}"
        );
    }
}
