// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Made-up kernels: a header, and a few pages of code.

use std::fs;
use std::path::PathBuf;

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use tempfile::TempDir;
use vm_memory::ByteValued;

use super::error::NOT_A_BZIMAGE;
use super::*;
use crate::boot::files::{CommandLineZero, Format, InputError};

const MIB: u64 = 1 << 20;
const CODE: [u8; 0x2000] = [0xcd; 0x2000];

/// A machine to load into, and the files.
struct Lab {
    dir: TempDir,
    layout: Layout,
    memory: GuestMemoryMmap,
}

impl Lab {
    fn new(memory: u64) -> Self {
        let layout = Layout::new(memory, 40).unwrap();
        Self {
            dir: TempDir::new().unwrap(),
            memory: crate::boot::ram::Ram::anonymous(layout.ram())
                .unwrap()
                .guest_memory(),
            layout,
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, kernel: &[u8], initrd: Option<&[u8]>) -> Result<Loaded, LoadError> {
        let kernel = self.file("kernel", kernel);
        let initrd = initrd.map(|bytes| self.file("initrd", bytes));
        load(
            &self.memory,
            &kernel,
            initrd.as_deref(),
            "quiet",
            &self.layout,
            b"RSD PTR ",
        )
    }

    fn bytes(&self, at: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }
}

/// A header that can be booted, and needs RAM up to 24 MiB.
fn header() -> setup_header {
    setup_header {
        setup_sects: 1,
        syssize: 0x200,
        // The header ends before `kernel_info_offset`.
        jump: 0x66eb,
        header: 0x5372_6448,
        version: 0x20f,
        loadflags: LOADED_HIGH,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: XLF_KERNEL_64,
        cmdline_size: 2047,
        pref_address: 16 * MIB,
        init_size: 0x80_0000,
        kernel_info_offset: 0x1234,
        ..Default::default()
    }
}

fn image(header: setup_header) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[0x1f1..][..size_of::<setup_header>()].copy_from_slice(header.as_slice());
    bytes.extend(CODE);
    bytes
}

fn kernel_problem(result: Result<Loaded, LoadError>) -> String {
    match result.unwrap_err() {
        LoadError::Kernel { file, source } => {
            assert!(file.ends_with("kernel"));
            source.to_string()
        }
        other => panic!("{other:?} is not about the kernel's file"),
    }
}

#[test]
fn everything_is_where_the_zero_page_says() {
    let lab = Lab::new(64 * MIB);
    let loaded = lab.load(&image(header()), Some(&[7; 5000])).unwrap();
    let initrd = AddrRange::new(64 * MIB - 0x2000, 5000);
    assert_eq!(loaded.entry, 0x10_0200);
    assert_eq!(
        loaded.kernel,
        AddrRange::new(MIB, (23 * MIB).into()).unwrap()
    );
    assert_eq!(loaded.initrd, initrd);

    let params: boot_params = lab.memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
    let header = params.hdr;
    assert_eq!({ header.type_of_loader }, 0xff);
    assert_eq!({ header.code32_start }, 0x10_0000);
    assert_eq!({ header.kernel_info_offset }, 0);
    assert_eq!(lab.bytes(MIB, CODE.len()), CODE);
    assert_eq!(lab.bytes(header.ramdisk_image.into(), 5000), [7; 5000]);
    assert_eq!({ header.ramdisk_size }, 5000);
    assert_eq!(lab.bytes(header.cmd_line_ptr.into(), 6), b"quiet\0");
    assert_eq!(lab.bytes(params.acpi_rsdp_addr, 8), b"RSD PTR ");
    assert_eq!(params.e820_entries, 3);
    assert_eq!({ params.e820_table[2].size }, 63 * MIB);
}

#[test]
fn the_memory_map_has_a_hole_for_devices() {
    let entries: Vec<_> = e820(&Layout::new(4 << 30, 40).unwrap()).collect();
    let expected = [
        (0, 0x9_fc00, E820_RAM),
        (0xe_0000, MIB, E820_RESERVED),
        (MIB, 0xc000_0000, E820_RAM),
        (1 << 32, 5 << 30, E820_RAM),
    ];
    assert_eq!(entries, expected);
    let small = Layout::new(64 * MIB, 40).unwrap();
    assert_eq!(e820(&small).last(), Some((MIB, 64 * MIB, E820_RAM)));
}

#[test]
fn an_initrd_goes_as_high_as_it_can_above_the_kernel() {
    let start =
        |size, from, limit| files::place_initrd(size, from, limit, PAGE_SIZE).map(AddrRange::start);
    assert_eq!(start(1, 0x1000, 0x8000), Some(0x7000));
    assert_eq!(start(0x1001, 0x1000, 0x8000), Some(0x6000));
    // The kernel's limit is not a multiple of a page, or the only room is taken.
    assert_eq!(start(0x1000, 0x1000, 0x7fff), Some(0x6000));
    assert_eq!(start(0x7000, 0x1000, 0x8000), Some(0x1000));
    assert_eq!(start(0x7000, 0x1001, 0x8000), None);
    assert_eq!(start(u64::MAX, 0, 0x8000), None);
}

#[test]
fn an_initrd_that_the_kernel_cannot_reach_is_an_error() {
    let lab = Lab::new(64 * MIB);
    let mut limited = header();
    limited.initrd_addr_max = 0x180_1fff;
    let loaded = lab.load(&image(limited), Some(&[7; 0x2000])).unwrap();
    assert_eq!(loaded.initrd, AddrRange::new(24 * MIB, 0x2000));
    let error = lab.load(&image(limited), Some(&[7; 0x2001])).unwrap_err();
    let LoadError::Initrd { source, .. } = error else {
        panic!("{error:?}");
    };
    let expected = "it has 8193 bytes, and the kernel takes at most 8192";
    assert_eq!(source.to_string(), expected);
}

#[test]
fn too_little_memory_is_reported_with_what_is_needed() {
    let lab = Lab::new(32 * MIB);
    let fits = vec![7; 8 << 20];
    lab.load(&image(header()), Some(&fits)).unwrap();
    let error = lab
        .load(&image(header()), Some(&vec![7; (8 << 20) + 1]))
        .unwrap_err();
    let expected = "it needs 33 MiB of RAM below 4 GiB, 9 MiB of them for the initrd, \
                    and there are 32 MiB";
    assert!(error.to_string().ends_with(expected), "{error}");
    // A header that wants everything.
    let mut huge = header();
    (huge.pref_address, huge.init_size) = (u64::MAX, u32::MAX);
    let error = lab.load(&image(huge), None).unwrap_err();
    assert!(
        matches!(error, LoadError::TooLittleMemory { .. }),
        "{error}"
    );
}

#[test]
fn a_file_of_another_format_is_reported_with_what_is_expected() {
    let lab = Lab::new(32 * MIB);
    for (bytes, format) in [
        (&b"\x7fELF\x02"[..], Format::Elf),
        (b"\x1f\x8b\x08\0", Format::Compressed("gzip")),
        (b"\x28\xb5\x2f\xfd", Format::Compressed("zstd")),
        (b"MZ", Format::Unknown(NOT_A_BZIMAGE)),
        (&[0; 4096], Format::Unknown(NOT_A_BZIMAGE)),
    ] {
        let problem = kernel_problem(lab.load(bytes, None));
        assert!(problem.starts_with(&format.to_string()), "{problem}");
        assert!(problem.contains("expected a bzImage"), "{problem}");
    }
}

#[test]
fn a_kernel_that_cannot_be_started_is_reported_with_the_reason() {
    let lab = Lab::new(32 * MIB);
    type Change = fn(&mut setup_header);
    let changes: [(Change, &str); 6] = [
        (|h| h.xloadflags = 0, "no 64-bit entry point"),
        (|h| h.version = 0x20b, "no 64-bit entry point"),
        (|h| h.loadflags = 0, "no 64-bit entry point"),
        // The header ends before its version.
        (|h| h.jump = 0, "no 64-bit entry point"),
        (|h| h.kernel_alignment = 3, "invalid kernel_alignment, 0x3"),
        (
            |h| h.syssize = 0x201,
            "has 9216 bytes, and the kernel has 9232",
        ),
    ];
    for (change, expected) in changes {
        let mut header = header();
        change(&mut header);
        let problem = kernel_problem(lab.load(&image(header), None));
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_at_once() {
    let lab = Lab::new(32 * MIB);
    let pipe = lab.dir.path().join("kernel");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let of = |path: &Path| kernel_problem(load(&lab.memory, path, None, "", &lab.layout, &[]));
    assert_eq!(of(&pipe), "not a regular file");
    fs::remove_file(&pipe).unwrap();
    assert!(of(&pipe).starts_with("No such file"));
    fs::create_dir(&pipe).unwrap();
    assert_eq!(of(&pipe), "not a regular file");
    fs::remove_dir(&pipe).unwrap();
    assert_eq!(of(&lab.file("kernel", b"")), "the file is empty");
    let error = lab.load(&image(header()), Some(b"")).unwrap_err();
    assert!(matches!(
        error,
        LoadError::Initrd {
            source: FileError::Input(InputError::Empty),
            ..
        }
    ));
}

#[test]
fn a_command_line_or_tables_that_do_not_fit_are_errors() {
    let lab = Lab::new(32 * MIB);
    let mut header = header();
    header.cmdline_size = 10;
    let kernel = lab.file("kernel", &image(header));
    let of = |text: &str, acpi: &[u8]| load(&lab.memory, &kernel, None, text, &lab.layout, acpi);
    of("0123456789", &[1; 0x2_0000]).unwrap();
    let error = of("0123456789a", &[]).unwrap_err();
    assert!(matches!(
        error,
        LoadError::CommandLineTooLong {
            length: 11,
            most: 10,
            ..
        }
    ));
    let error = of("a\0b", &[]).unwrap_err();
    assert!(matches!(
        error,
        LoadError::CommandLineZero(CommandLineZero { offset: 1 })
    ));
    let error = of("", &[1; 0x2_0001]).unwrap_err();
    assert!(matches!(
        error,
        LoadError::AcpiTooLarge { room: 0x2_0000, .. }
    ));
}

#[test]
fn no_header_causes_a_panic() {
    let lab = Lab::new(32 * MIB);
    let valid = image(header());
    for at in 0x1f1..0x26c {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut damaged = valid.clone();
            damaged[at] = value;
            let _ = lab.load(&damaged, Some(&[7; 4096]));
        }
    }
    for length in (0..valid.len()).step_by(37) {
        assert!(lab.load(&valid[..length], None).is_err(), "{length} bytes");
    }
}
