// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm map` as a user starts it.

use crate::common::{example, json, stdout, vmm};

#[test]
fn the_picture_in_the_documentation_is_the_one_that_is_drawn_today() {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/built-in.svg");
    let kept = std::fs::read_to_string(kept).unwrap();
    let output = vmm(&["map", "--as", "svg"]);
    let drawn = stdout(&output);
    assert!(
        drawn == kept,
        "redraw it: vmm map --as svg > docs/built-in.svg"
    );
}

#[test]
fn the_map_shows_tree_flat_view_and_slots_together_or_each() {
    let all = vmm(&["map"]);
    let parts = ["tree", "flat", "slots"].map(|form| vmm(&["map", "--as", form]));
    let heads = parts
        .each_ref()
        .map(|part| stdout(part).lines().next().unwrap());
    assert_eq!(heads, ["Region tree", "Flat view", "Memslots"]);
    // Host addresses differ from run to run, so heads must do.
    let lines: Vec<&str> = stdout(&all).lines().collect();
    assert!(heads.iter().all(|head| lines.contains(head)));
    assert!(parts.iter().all(|part| part.status.success()));
    assert!(stdout(&parts[0]).contains("private mmio private-registers"));
    assert!(stdout(&parts[1]).contains("direct ro rom            7 rom\n"));
    assert!(stdout(&parts[2]).contains("no host address"));
}

#[test]
fn a_picture_marks_the_ram_that_has_a_private_side() {
    let words = "no host address for private pages";
    let picture = |name| vmm(&["map", &example(name), "--as", "svg"]);
    assert!(stdout(&picture("confidential")).contains(words));
    assert!(!stdout(&picture("assigned-device")).contains(words));
    let map = json(&["map", &example("confidential"), "--as", "json"], 0);
    let sides = map["flat"].as_array().unwrap().iter();
    let sides: Vec<_> = sides.map(|row| &row["private_side"]).collect();
    assert_eq!(sides, [&false, &true]);
}

#[test]
fn the_map_as_json_parses_and_as_svg_is_a_picture() {
    for name in ["assigned-device", "confidential", "large", "pc"] {
        let map = json(&["map", &example(name), "--as", "json"], 0);
        for key in ["tree", "flat", "slots"] {
            assert!(!map[key].as_array().unwrap().is_empty(), "{name}: {key}");
        }
        let output = vmm(&["map", &example(name), "--as", "svg"]);
        let text = stdout(&output);
        assert!(
            text.starts_with("<svg") || text.starts_with("<?xml"),
            "{name}"
        );
        assert!(text.trim_end().ends_with("</svg>"), "{name}");
    }
}
