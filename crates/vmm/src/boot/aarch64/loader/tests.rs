// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Made-up kernels: a header, and a few bytes of code.

use std::fs;

use tempfile::TempDir;
use vm_memory::Bytes;

use super::*;
use crate::boot::ram::Ram;

const MIB: u64 = 1 << 20;
const CODE: [u8; 0x1000] = [0xcd; 0x1000];

/// The page sizes of a processor that has 4 KiB and 64 KiB.
const PAGES: PageSizes = PageSizes::from_features(0);

fn header() -> arm64_image_header {
    arm64_image_header {
        text_offset: 0x8_0000,
        image_size: 8 * MIB,
        magic: MAGIC,
        ..Default::default()
    }
}

fn image(header: arm64_image_header) -> Vec<u8> {
    [header.as_slice(), &CODE].concat()
}

fn checked(bytes: &[u8]) -> Result<AddrRange, String> {
    check(bytes, bytes.len() as u64, PAGES).map_err(|error| error.to_string())
}

/// Loads files into RAM of this size.
fn loaded(
    memory: u64,
    kernel: &[u8],
    initrd: Option<&[u8]>,
) -> (Result<Loaded, String>, GuestMemoryMmap) {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let kernel = file("kernel", kernel);
    let initrd = initrd.map(|bytes| file("initrd", bytes));
    let range = AddrRange::new(RAM, memory.into()).unwrap();
    let ram = Ram::anonymous([range]).unwrap().guest_memory();
    let result = load(&ram, &kernel, initrd.as_deref(), range, PAGES);
    let folder = folder.path().display().to_string();
    let text = |error: LoadError| crate::with_causes(&error).replace(&folder, "");
    (result.map_err(text), ram)
}

#[test]
fn the_kernel_is_at_its_offset_and_the_initrd_at_the_end_of_ram() {
    let initrd = [0xab; 5000];
    let (result, ram) = loaded(64 * MIB, &image(header()), Some(&initrd));
    let result = result.unwrap();
    assert_eq!(result.entry, RAM + 2 * MIB + 0x8_0000);
    let place = result.initrd.unwrap();
    assert_eq!(place.start(), RAM + 64 * MIB - 0x1_0000);
    assert_eq!(place.size(), 5000);
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    };
    assert!(read(result.entry, 64 + CODE.len()) == image(header()));
    assert!(read(place.start(), 5000) == initrd);
}

#[test]
fn ram_behind_the_kernel_is_kept_free() {
    let mut large = header();
    large.image_size = 40 * MIB;
    let (result, _) = loaded(43 * MIB, &image(large), None);
    assert_eq!(result.unwrap().initrd, None);
    let problem = "kernel /kernel: it needs 43 MiB of RAM, 0 MiB of them for the initrd, \
                   and there are 42 MiB";
    assert_eq!(
        loaded(42 * MIB, &image(large), None).0.unwrap_err(),
        problem
    );
    let problem = "kernel /kernel: it needs 44 MiB of RAM, 1 MiB of them for the initrd, \
                   and there are 43 MiB";
    let initrd = vec![1; 1 << 20];
    let result = loaded(43 * MIB, &image(large), Some(&initrd)).0;
    assert_eq!(result.unwrap_err(), problem);
}

#[test]
fn a_file_of_another_format_is_named() {
    let expected = "expected an Image, such as arch/arm64/boot/Image";
    for (bytes, format) in [
        (&b"\x7fELF\x02"[..], "this is an ELF file (a vmlinux?)"),
        (b"\x1f\x8b\x08\0", "this is a file compressed by gzip"),
        (b"MZ\0\0zimg\0\0", "this is a file compressed by zboot"),
        (b"MZ", "not an Image (no \"ARM\\x64\" at offset 56)"),
        (&[0; 4096], "not an Image (no \"ARM\\x64\" at offset 56)"),
    ] {
        assert_eq!(checked(bytes).unwrap_err(), format!("{format}; {expected}"));
    }
}

#[test]
fn a_kernel_that_this_machine_cannot_run_is_refused_with_the_reason() {
    type Change = fn(&mut arm64_image_header);
    let cases: [(Change, &str); 5] = [
        (|header| header.flags = 1, "the kernel is big-endian"),
        (
            |header| header.flags = 2 << 1,
            "the kernel has pages of 16 KiB, which this processor does not have",
        ),
        (
            |header| header.image_size = 0,
            "the kernel's size is not known: it is older than Linux 3.17",
        ),
        (
            |header| header.image_size = 0x1000,
            "the file has 4160 bytes, and the kernel's header says 0x1000",
        ),
        (
            |header| header.text_offset = u64::MAX,
            "the file has 4160 bytes, and the kernel's header says 0x800000",
        ),
    ];
    for (change, problem) in cases {
        let mut header = header();
        change(&mut header);
        assert_eq!(checked(&image(header)).unwrap_err(), problem);
    }
    for flags in [0, 1 << 1, 3 << 1] {
        let header = arm64_image_header { flags, ..header() };
        assert!(checked(&image(header)).is_ok(), "{flags}");
    }
}

#[test]
fn headers_of_random_bytes_are_errors_or_ranges_above_the_device_tree() {
    use proptest::prelude::*;
    proptest!(|(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), size in any::<u64>())| {
        if let Some(magic) = bytes.get_mut(56..60) {
            magic.copy_from_slice(&MAGIC.to_le_bytes());
        }
        if let Ok(kernel) = check(&bytes, size, PAGES) {
            prop_assert!(kernel.start() >= KERNEL_BASE);
            prop_assert!(kernel.size() >= u128::from(size));
        }
    });
}
