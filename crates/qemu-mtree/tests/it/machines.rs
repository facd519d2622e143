// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Renders the region trees of real machines, and compares the views with
//! QEMU's flat views of the same machines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Views that are not exact because the text lacks a fact: machine, first
/// address space by name, and the fact. None of the hundred machines has one.
const LACKING: [(&str, &str, &str); 9] = [
    ("others/arm64-imx8mm-evk", "cpu-memory-0", VPU),
    ("others/arm64-imx8mm-evk", "pcie-bus-address-space", VPU),
    ("others/arm64-imx8mp-evk", "cpu-memory-0", VPU),
    ("others/arm64-imx8mp-evk", "pcie-bus-address-space", VPU),
    ("others/arm64-virt-uboot", "cpu-memory-0", PORT),
    ("others/hexagon-V66G_1024", "cpu-memory-0", DDR),
    ("others/powernv8-booted", "lpc-opb", PNOR),
    ("others/v100-ppc-pegasos2", "cpu-memory-0", LPT),
    ("others/v72-arm-mcimx6ul-evk", "cpu-memory-0", GPR),
];
const VPU: &str = "which of the overlapping stand-ins for the video units was added last";
const GPR: &str = "whether imx7.gpr was added after the imx25.gpt that lies inside it";
const PORT: &str =
    "which root port has the bus of the NVMe device: its BAR is in another port's window";
const DDR: &str =
    "whether ddr.ram was added after config_table.rom in it; in hexagon-virt it was not";
const PNOR: &str = "whether pnv-pnor, which prints as i/o, lets writes through";
const LPT: &str = "whether the parallel port was added after the VGA ports that it overlaps";

pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// Returns the paths of the trees in a folder of the test data.
pub fn machines(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut trees: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "tree"))
        .collect();
    trees.sort();
    trees
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn rendered(name: &str, tree: &str) -> String {
    qemu_mtree::read(name, tree).unwrap().flat_text()
}

/// Counts equal views, by heading (with sorted address spaces) and ranges. QEMU
/// orders views by pointers and address spaces by age, and a tree contains
/// neither order.
fn views(flat: &str) -> BTreeMap<(Vec<&str>, Vec<&str>), usize> {
    let mut views = BTreeMap::new();
    for view in flat.split("FlatView #").skip(1) {
        let lines = view.lines().skip(1).filter(|line| !line.is_empty());
        let (mut spaces, rest): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with(" AS "));
        spaces.sort_unstable();
        *views.entry((spaces, rest)).or_default() += 1;
    }
    views
}

/// Returns the number of views, and the first address space of each view that
/// is not exact.
fn compare(tree: &Path) -> (usize, Vec<String>) {
    let printed = rendered(&tree.display().to_string(), &read(tree));
    let expected = read(&tree.with_extension("flat"));
    let (ours, theirs) = (views(&printed), views(&expected));
    let wrong = theirs.iter().filter(|&(view, n)| ours.get(view) != Some(n));
    let first = |spaces: &[&str]| {
        let name = spaces.first().and_then(|line| line.split('"').nth(1));
        name.unwrap_or("?").to_string()
    };
    let wrong: Vec<_> = wrong.map(|((spaces, _), _)| first(spaces)).collect();
    // The crate renders as many views as QEMU.
    assert_eq!(
        ours.values().sum::<usize>(),
        theirs.values().sum::<usize>(),
        "{tree:?}"
    );
    (theirs.values().sum(), wrong)
}

#[test]
fn every_view_of_every_machine_is_exact_but_those_that_the_text_lacks_a_fact_for() {
    let (mut count, mut wrong) = (0, Vec::new());
    for (folder, machines_there) in [("", 100), ("others/", 37)] {
        let trees = machines(&data().join(folder));
        assert_eq!(trees.len(), machines_there);
        for tree in trees {
            let machine = tree.file_stem().unwrap().to_str().unwrap();
            let (views, inexact) = compare(&tree);
            count += views;
            let name = |space| (format!("{folder}{machine}"), space);
            wrong.extend(inexact.into_iter().map(name));
        }
    }
    assert!(count > 800, "{count} views");
    let lacking = LACKING.map(|(machine, space, _)| (machine.to_string(), space.to_string()));
    assert_eq!(wrong, lacking);
}

#[test]
fn a_file_with_windows_line_ends_is_the_same_machine() {
    let tree = read(&data().join("pc-bare.tree"));
    let windows = tree.replace('\n', "\r\n");
    assert_eq!(rendered("a", &windows), rendered("a", &tree));
}
