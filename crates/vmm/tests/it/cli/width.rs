// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is printed for people fits in 80 columns. Words that quote the user's
//! input, such as a name of 200 bytes, do not count: they stay whole.

use std::path::Path;

use memory_map::{Map, text};

use crate::common::bars::case;
use crate::common::{example, machine_file, stderr, stdout, vmm};

/// The examples that the simulated KVM runs.
const SIMULATED: [&str; 6] = [
    "assigned-device",
    "confidential",
    "large",
    "memory-faults",
    "pc",
    "tee-device",
];

/// The examples with devices that only the real KVM has; they have a map.
const REAL: [&str; 3] = ["private-mmio", "private-mmio-plain", "real-devices"];

/// Asserts that no line of a text is wider than 80 columns.
#[track_caller]
fn fits(text: &str, what: &str) {
    assert!(!text.is_empty(), "{what}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{what}: {line}");
    }
}

/// Runs the program, which must succeed, and looks at what it prints.
#[track_caller]
fn prints_80_columns(args: &[&str]) {
    let output = vmm(args);
    let what = args.join(" ");
    assert!(output.status.success(), "{what}: {}", stderr(&output));
    fits(stdout(&output), &what);
}

#[test]
fn every_run_of_an_example_fits_in_80_columns() {
    let sim = ["--backend", "sim"];
    let forms = [
        &["--abi", "none"][..],
        &["--abi", "rfc-dmabuf"],
        &["--sim-kernel", "6.1"],
        &[],
    ];
    for form in forms {
        prints_80_columns(&[&sim, form].concat());
        for name in SIMULATED {
            prints_80_columns(&[&["run", &example(name)][..], &sim, form].concat());
        }
    }
}

#[test]
fn every_map_of_an_example_fits_in_80_columns() {
    for abi in ["none", "fd-offset"] {
        prints_80_columns(&["map", "--abi", abi]);
        for name in SIMULATED.iter().chain(&REAL) {
            prints_80_columns(&["map", &example(name), "--abi", abi]);
        }
    }
}

#[test]
fn every_report_of_bars_fits_in_80_columns() {
    let nvme = format!(
        "{}/../../examples/nvme-lspci.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    prints_80_columns(&["bars", "--config", &nvme]);
    for name in ["region-line-marked", "io-unassigned"] {
        prints_80_columns(&["bars", "--config", &case(&format!("{name}.txt"))]);
    }
    for name in [
        "tdisp-ambiguous",
        "tdisp-id8",
        "tdisp-marked-nontee",
        "tdisp-marked-tee",
    ] {
        let [config, report] = ["txt", "report"].map(|end| case(&format!("{name}.{end}")));
        let files = ["--config", &config, "--report", &report];
        prints_80_columns(&[&["bars"], &files[..], &["--locked-msix", "private"]].concat());
    }
    // BARs of 16 GiB have the widest offsets.
    let files = support::devices::Files::new();
    let large = std::fs::read_to_string(&nvme)
        .unwrap()
        .replace("size=16K", "size=16G");
    prints_80_columns(&["bars", "--config", &files.put("large.txt", large)]);
}

#[test]
fn the_help_of_every_command_fits_in_80_columns() {
    for help in ["--help", "-h"] {
        prints_80_columns(&[help]);
        for command in ["run", "map", "mtree", "bars", "boot"] {
            prints_80_columns(&[command, help]);
        }
    }
}

#[test]
fn the_map_of_a_q35_machine_fits_in_80_columns() {
    let dumps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu-mtree/tests/data");
    let machine = qemu_mtree::read_file(&dumps.join("q35-default.tree")).unwrap();
    for view in &machine.views {
        let Some(root) = &view.root else { continue };
        let map = Map::of(&machine.model, root.space, "q35", |_| String::new());
        fits(&text::tree(&map), &root.name);
        fits(&text::flat(&map), &root.name);
    }
}

#[test]
fn a_wrong_step_and_a_long_name_are_shown_in_whole() {
    let folder = tempfile::tempdir().unwrap();
    let name = "x".repeat(200);
    let text = format!(
        "name = \"{name}\"\n\
         region = [{{ name = \"{name}\", kind = \"ram\", at = 0, size = \"4K\" }}]\n\
         step = [{{ do = \"write\", at = 8, size = 8, value = 1, how = \"memory-fault\" }}]\n"
    );
    let output = vmm(&[
        "run",
        "--backend",
        "sim",
        &machine_file(folder.path(), &text),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<&str> = stdout(&output).lines().collect();
    let wide: Vec<&&str> = lines.iter().filter(|line| line.len() > 80).collect();
    // The machine, the tree, the flat view and the step.
    assert_eq!(wide.len(), 4, "{wide:?}");
    assert!(wide.iter().all(|line| line.contains(&name)), "{wide:?}");
    assert!(
        lines.contains(&"          expected memory-fault -"),
        "{lines:?}"
    );
}
