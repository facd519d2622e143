// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads dumps from files: views by name, and errors.

use std::error::Error;
use std::path::Path;

use memory_model::GuestAccess;
use qemu_mtree::{FileError, RegionType, read_file};

use crate::machines::data;

#[test]
fn an_address_space_is_found_by_its_name() {
    let machine = read_file(&data().join("q35-default.tree")).unwrap();
    assert_eq!(machine.cut_off, None);
    let ports = machine.flat_view("I/O").unwrap();
    let clock = ports.find(0x71).unwrap();
    assert_eq!(clock.region().name(), "rtc");
    assert_eq!(clock.offset_of(0x71), Some(1));
    assert_eq!(clock.access(), GuestAccess::Trap);
    let memory = machine.flat_view("memory").unwrap();
    let ram = memory.find(0).unwrap();
    assert_eq!(ram.region().name(), "pc.ram");
    assert_eq!(ram.region().handle().kind, RegionType::Ram);
    assert_eq!(ram.access(), GuestAccess::ReadWrite);
    assert!(machine.flat_view("no such space").is_none());
}

#[test]
fn a_space_in_which_nothing_can_show_has_no_view() {
    let line = "  0000000000000000-0000000000000fff (prio 0, container): system";
    let text = format!("address-space: a\n{line}\n\n");
    let machine = qemu_mtree::read("a.tree", &text).unwrap();
    assert_eq!(machine.views.len(), 1);
    assert_eq!(machine.views[0].root, None);
    assert!(machine.flat_view("a").is_none());
}

#[test]
fn a_file_that_is_no_dump_is_an_error_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.tree");
    let error = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        match read_file(&path) {
            Err(FileError::Dump(error)) => (error.line, error.what),
            other => panic!("{other:?}"),
        }
    };
    let (line, what) = error(b"address-space: memory\n  nonsense\n");
    assert!(
        line == 2 && what.starts_with("expected START-LAST"),
        "{what}"
    );
    let not_text = (2, "not UTF-8; expected text".to_string());
    assert_eq!(error(b"address-space: a\n\xff\n"), not_text);
    let (line, what) = error(&[b'\n'; (8 << 20) + 1]);
    assert_eq!((line, &*what), ((8 << 20) + 2, "more than 8388608 bytes"));
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_with_its_cause() {
    let error = read_file(Path::new("missing.tree")).unwrap_err();
    assert_eq!(error.to_string(), "missing.tree");
    assert!(matches!(error, FileError::Io { .. }));
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .starts_with("No such file")
    );
}
