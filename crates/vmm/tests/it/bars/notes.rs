// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars`: the notes are the same for people and for scripts.

use crate::common::bars::{bars_and_notes, case};
use crate::common::{stderr, stdout, vmm};
use support::devices::{Files, NIC, nvme_config};

/// The notes in the text: before the first BAR all lines but two, and below a BAR
/// the lines with the label of a note. A line that is indented more goes on with
/// the one above it.
fn shown(text: &str) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    let mut label = "";
    let head = text.lines().skip_while(|line| !line.is_empty()).skip(1);
    for line in head.take_while(|line| !line.is_empty()) {
        let (name, words) = line.split_at(13);
        if !name.trim().is_empty() {
            label = name.trim();
        }
        match (label, words.strip_prefix("  ")) {
            ("Host pages" | "MSI-X", _) => {}
            (_, Some(more)) => go_on(&mut notes, more),
            ("Note", None) => notes.push(words.to_string()),
            (label, None) => notes.push(format!("{label}: {words}")),
        }
    }
    let mut in_note = false;
    for line in text.lines() {
        let below = line.strip_prefix("  ").unwrap_or_default();
        match below.strip_prefix("  ") {
            Some(more) if in_note => go_on(&mut notes, more),
            _ => {
                let note = below.strip_prefix("Note: ");
                let note = note.or(below.starts_with("TDISP: ").then_some(below));
                notes.extend(note.map(str::to_string));
                in_note = note.is_some();
            }
        }
    }
    notes.sort();
    notes
}

/// Appends a broken line to the latest note.
fn go_on(notes: &mut [String], more: &str) {
    let note = notes.last_mut().unwrap();
    *note += " ";
    *note += more;
}

#[test]
fn text_and_json_have_the_same_notes() {
    let files = Files::new();
    let mut io = nvme_config(256);
    io[0x18..0x1c].copy_from_slice(&0xe021_u32.to_le_bytes());
    let io = files.put("io", io);
    let regions = files.put(
        "regions.json",
        r#"[{"index":0,"size":"0x4000","flags":["mmap"]}]"#,
    );
    let none = files.put("none", [&[0x36, 0x1b, 1, 0], &[0; 252][..]].concat());
    let nic = files.put("nic.txt", NIC);
    let reported = |name: &str| {
        let file = |end: &str| case(&format!("{name}.{end}"));
        vec![
            "--config".into(),
            file("txt"),
            "--report".into(),
            file("report"),
        ]
    };
    let plain = |path: &str| vec!["--config".to_string(), path.to_string()];
    let forms = [
        reported("tdisp-ambiguous"),
        reported("tdisp-id8"),
        reported("tdisp-marked-nontee"),
        [
            reported("tdisp-marked-tee"),
            vec!["--locked-msix=private".into()],
        ]
        .concat(),
        plain(&case("ea-raw.bin")),
        [plain(&io), vec!["--regions".into(), regions]].concat(),
        plain(&nic),
        plain(&none),
        plain(&case("io-unassigned.txt")),
    ];
    for form in forms {
        let args: Vec<&str> = form.iter().map(String::as_str).collect();
        let (answer, on_stderr) = bars_and_notes(&args);
        let output = vmm(&[&["bars", "--page-size", "4K"], &args[..]].concat());
        assert_eq!(stderr(&output), "");
        let in_text = shown(stdout(&output));
        assert!(in_text.len() >= 2, "{in_text:?}");

        let bars = answer["bars"].as_array().unwrap();
        let of_bars = bars.iter();
        let mut in_json: Vec<String> = of_bars
            .flat_map(|bar| bar["notes"].as_array().unwrap())
            .map(|note| note.as_str().unwrap().to_string())
            .collect();
        in_json.sort();
        in_json.dedup();
        if !bars.is_empty() {
            let mut once = in_text.clone();
            once.dedup();
            assert_eq!(in_json, once, "{args:?}");
        }
        let mut bare: Vec<String> = on_stderr
            .iter()
            .map(|note| match note.split_once(": ") {
                Some((_, of_bar)) if !in_text.contains(note) => of_bar.into(),
                _ => note.clone(),
            })
            .collect();
        bare.sort();
        assert_eq!(bare, in_text, "{args:?}");
    }
}

#[test]
fn notes_on_what_vfio_maps_do_not_concern_io_ports() {
    let files = Files::new();
    let (answer, _) = bars_and_notes(&["--config", &files.put("nic.txt", NIC)]);
    for (bar, count) in [(0, 2), (2, 0), (3, 2), (4, 2)] {
        let mut notes = support::devices::notes(&answer, bar);
        notes.retain(|note| note.starts_with("VFIO maps") || note.starts_with("TDISP"));
        assert_eq!(notes.len(), count, "{bar}");
    }
}

#[test]
fn an_answer_without_bars_does_not_claim_that_the_device_has_none() {
    let files = Files::new();
    let none = files.put("none", [&[0x36, 0x1b, 1, 0], &[0; 252][..]].concat());
    let output = vmm(&["bars", "--config", &none]);
    let text = stdout(&output);
    assert!(text.contains("\nNo BAR is known.\n"), "{text}");
    let note = "Note         BAR registers that are 0 are left out (0, 1, 2, 3, 4, 5): not\n               \
                implemented, without an address, or of a virtual function";
    assert!(text.contains(note), "{text}");
}
