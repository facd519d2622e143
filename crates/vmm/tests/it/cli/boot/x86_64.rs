// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is wrong with a bzImage, or with the RAM for it.

use super::{kernel, refused};
use crate::common::guest::{Kernel, header, image, kvm};

/// Asserts the problem of a kernel's file.
#[track_caller]
fn kernel_problem(kernel: &Kernel, problem: &str) {
    let path = kernel.path();
    let said = refused(&path, &[]);
    assert_eq!(said, format!("vmm: kernel {}: {problem}\n", path.display()));
}

#[test]
fn a_file_that_is_no_kernel_is_named_with_what_it_is_and_what_is_expected() {
    let Some(_) = kvm() else { return };
    let expected = "expected a bzImage, such as arch/x86/boot/bzImage or /boot/vmlinuz-*";
    let zeros = [0; 4096];
    for (bytes, format) in [
        (
            &b"root=/dev/sda\n"[..],
            "not a bzImage (no \"HdrS\" at offset 0x202)",
        ),
        (&zeros, "not a bzImage (no \"HdrS\" at offset 0x202)"),
        (b"\x7fELF\x02\x01\x01", "this is an ELF file (a vmlinux?)"),
        (b"\x1f\x8b\x08\0", "this is a file compressed by gzip"),
        (b"\xfd7zXZ\0", "this is a file compressed by xz"),
    ] {
        kernel_problem(&Kernel::of(bytes), &format!("{format}; {expected}"));
    }
    kernel_problem(&Kernel::of(b""), "the file is empty");
}

#[test]
fn a_kernel_that_is_truncated_or_for_32_bits_is_named_with_the_reason() {
    let Some(_) = kvm() else { return };
    let whole = image(header(), &[0xf4; 0x1000]);
    let problem = "the file is truncated: it has 5000 bytes, and the kernel has 5632";
    kernel_problem(&Kernel::of(&whole[..5000]), problem);
    let mut old = header();
    old.xloadflags = 0;
    let problem = "the kernel has no 64-bit entry point: it is for 32-bit or older than Linux 3.8";
    kernel_problem(&Kernel::of(&image(old, &[0xf4])), problem);
}

#[test]
fn memory_that_is_too_little_or_odd_is_told_with_what_is_needed() {
    let Some(_) = kvm() else { return };
    let kernel = kernel();
    let of = |size: &str| refused(&kernel.path(), &["--memory", size]);
    let said = "vmm: 0x1000000 bytes of RAM are too few: a kernel needs at least 0x2000000\n";
    assert_eq!(of("16M"), said);
    assert_eq!(
        of("33554433"),
        "vmm: 0x2000001 bytes of RAM are not whole pages of 4 KiB\n"
    );
    let said = of("4096T");
    assert!(
        said.starts_with("vmm: 0x10000000000000 bytes of RAM do not fit: "),
        "{said}"
    );

    let mut large = header();
    large.init_size = 32 << 20;
    let large = Kernel::of(&image(large, &[0xf4]));
    let name = large.path();
    let problem = "it needs 48 MiB of RAM below 4 GiB, 0 MiB of them for the initrd, \
                   and there are 32 MiB";
    let said = refused(&name, &["--memory", "32M"]);
    assert_eq!(said, format!("vmm: kernel {}: {problem}\n", name.display()));
}

#[test]
fn an_initrd_that_does_not_fit_is_told_with_what_is_needed() {
    let Some(_) = kvm() else { return };
    let kernel = kernel();
    let path = kernel.path();
    let initrd = path.with_file_name("initrd");
    // A file with a hole, whose size alone counts.
    let file = std::fs::File::create(&initrd).unwrap();
    file.set_len(100 << 20).unwrap();
    let args = ["--memory", "64M", "--initrd", initrd.to_str().unwrap()];
    let problem = "it needs 124 MiB of RAM below 4 GiB, 100 MiB of them for the initrd, \
                   and there are 64 MiB";
    assert_eq!(
        refused(&path, &args),
        format!("vmm: kernel {}: {problem}\n", path.display())
    );
}

#[test]
fn a_command_line_that_is_too_long_is_told_with_its_length_and_the_kernels_limit() {
    let Some(_) = kvm() else { return };
    let kernel = kernel();
    let path = kernel.path();
    let said = refused(&path, &["--append", &"a".repeat(2047)]);
    let end = format!("bytes, and kernel {} takes 2047\n", path.display());
    assert!(said.starts_with("vmm: the command line has 21"), "{said}");
    assert!(said.ends_with(&end), "{said}");
}
