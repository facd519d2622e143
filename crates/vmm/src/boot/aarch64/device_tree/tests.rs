// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a kernel reads from the tree, by a reader of its own (Devicetree Specification,
//! chapter 5).

use std::collections::BTreeMap;

use vfio_private::BarKind;

use super::*;

/// Nodes by their paths, each with its properties.
type Nodes = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn text(bytes: &[u8], at: usize) -> String {
    let end = bytes[at..].iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(bytes[at..at + end].into()).unwrap()
}

fn read(blob: &[u8]) -> Nodes {
    assert_eq!(word(blob, 0), 0xd00d_feed);
    assert_eq!(word(blob, 4) as usize, blob.len());
    let (mut at, strings) = (word(blob, 8) as usize, word(blob, 12) as usize);
    let (mut nodes, mut path) = (Nodes::new(), Vec::new());
    loop {
        let token = word(blob, at);
        at += 4;
        match token {
            1 => {
                let name = text(blob, at);
                at += (name.len() + 1).next_multiple_of(4);
                path.push(name);
                nodes.insert(path.join("/"), BTreeMap::new());
            }
            2 => drop(path.pop()),
            3 => {
                let (length, name) = (word(blob, at) as usize, word(blob, at + 4) as usize);
                let value = blob[at + 8..at + 8 + length].to_vec();
                at += 8 + length.next_multiple_of(4);
                let node = nodes.get_mut(&path.join("/")).unwrap();
                assert_eq!(node.insert(text(blob, strings + name), value), None);
            }
            9 => return nodes,
            other => panic!("token {other}"),
        }
    }
}

fn cells(value: &[u8]) -> Vec<u32> {
    let (words, rest) = value.as_chunks();
    assert!(rest.is_empty());
    words.iter().map(|word| u32::from_be_bytes(*word)).collect()
}

/// Addresses and sizes of two cells each.
fn wide(value: &[u8]) -> Vec<u64> {
    let (words, rest) = value.as_chunks();
    assert!(rest.is_empty());
    words.iter().map(|word| u64::from_be_bytes(*word)).collect()
}

fn layout() -> Layout {
    Layout::new(256 << 20, 4096, 40).unwrap()
}

fn tree(vcpus: &[u64], initrd: Option<AddrRange>) -> Nodes {
    let layout = layout();
    let blob = device_tree(Description {
        layout: &layout,
        vcpus,
        parameters: "console=ttyS0 quiet",
        initrd,
    });
    read(&blob.unwrap())
}

#[test]
fn a_kernel_finds_its_ram_initramfs_parameters_and_console() {
    let initrd = AddrRange::new(0x4fff_0000, 5000).unwrap();
    let nodes = tree(&[0], Some(initrd));
    let chosen = &nodes["/chosen"];
    assert_eq!(text(&chosen["bootargs"], 0), "console=ttyS0 quiet");
    assert_eq!(wide(&chosen["linux,initrd-start"]), [0x4fff_0000]);
    assert_eq!(wide(&chosen["linux,initrd-end"]), [0x4fff_0000 + 5000]);
    assert!(nodes.contains_key(&text(&chosen["stdout-path"], 0)));
    let memory = &nodes["/memory@40000000"];
    assert_eq!(wide(&memory["reg"]), [0x4000_0000, 256 << 20]);
    let nodes = tree(&[0], None);
    assert!(!nodes["/chosen"].contains_key("linux,initrd-start"));
}

#[test]
fn every_vcpu_has_a_node_and_a_redistributor() {
    let affinities = [0, 1, 0x100, 0x1_0000_0000];
    let nodes = tree(&affinities, None);
    for affinity in affinities {
        let cpu = &nodes[&format!("/cpus/cpu@{affinity:x}")];
        assert_eq!(wide(&cpu["reg"]), [affinity]);
        assert_eq!(text(&cpu["enable-method"], 0), "psci");
    }
    let gic = wide(&nodes["/interrupt-controller@8000000"]["reg"]);
    assert_eq!(gic[2..], [REDISTRIBUTORS, 4 * REDISTRIBUTOR_SIZE]);
}

#[test]
fn the_name_of_a_node_is_its_address_and_references_have_a_node() {
    let nodes = tree(&[0, 1], None);
    for (path, node) in &nodes {
        if let (Some((_, name)), Some(reg)) = (path.split_once('@'), node.get("reg")) {
            let unit = path.rsplit('@').next().unwrap();
            assert_eq!(u64::from_str_radix(unit, 16), Ok(wide(reg)[0]), "{name}");
        }
    }
    let handle = |node: &str| cells(&nodes[node]["phandle"])[0];
    let gic = handle("/interrupt-controller@8000000");
    assert_eq!(cells(&nodes[""]["interrupt-parent"]), [gic]);
    // Function numbers 0 to 0xffff are the ITS's own numbers.
    let its = handle("/interrupt-controller@8000000/msi-controller@8080000");
    let map = cells(&nodes["/pcie@30000000"]["msi-map"]);
    assert_eq!(map, [0, its, 0, 0x1_0000]);
}

#[test]
fn the_host_bridge_passes_on_what_the_tree_says() {
    let nodes = tree(&[0], None);
    let windows = layout().pci_windows();
    let ranges = cells(&nodes["/pcie@30000000"]["ranges"]);
    let (ranges, rest) = ranges.as_chunks::<7>();
    assert!(rest.is_empty());
    let mut spaces = Vec::new();
    for &[space, pci_high, pci, high, start, size_high, size] in ranges {
        let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let (pci, start) = (wide(pci_high, pci), wide(high, start));
        let size = wide(size_high, size);
        spaces.push(space >> 24);
        if space >> 24 == 1 {
            assert_eq!((pci, start, size), (0, PORTS.0, PORTS.1));
            continue;
        }
        assert_eq!(pci, start);
        let covers = |start, size: u64| {
            let range = AddrRange::new(start, size.into()).unwrap();
            windows.cover(BarKind::Memory, range)
        };
        assert!(covers(start, size));
        assert!(!covers(start - 1, size) && !covers(start, size + 1));
    }
    assert_eq!(spaces, [1, 2, 3]);
}
