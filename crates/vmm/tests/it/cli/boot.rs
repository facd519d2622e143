// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm boot` with a wrong argument or file: what is said, and exit status 2.

use std::path::Path;

use crate::common::guest::{Code, Kernel, header, image, kvm};
use crate::common::{failure, stdout, vmm};

/// A kernel that ends at once. No guest of these tests should come to run it.
fn kernel() -> Kernel {
    Kernel::new(&Code::default().power_off().halt())
}

/// What `vmm boot` says about this kernel and these arguments.
#[track_caller]
fn refused(kernel: &Path, args: &[&str]) -> String {
    failure(&[&["boot", "--kernel", kernel.to_str().unwrap()], args].concat())
}

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
fn a_kernel_or_an_initrd_that_cannot_be_read_is_named() {
    let Some(_) = kvm() else { return };
    let kernel = kernel();
    let path = kernel.path();
    let folder = path.parent().unwrap();
    let missing = folder.join("missing");
    for (file, problem) in [
        (missing.as_path(), "No such file or directory (os error 2)"),
        (folder, "not a regular file"),
        (Path::new("/dev/zero"), "not a regular file"),
    ] {
        let name = file.to_str().unwrap();
        assert_eq!(
            refused(file, &[]),
            format!("vmm: kernel {name}: {problem}\n")
        );
        let said = refused(&path, &["--initrd", name]);
        assert_eq!(said, format!("vmm: initrd {name}: {problem}\n"));
    }
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

#[test]
fn arguments_that_make_no_sense_are_quoted_with_their_option() {
    let kernel = kernel();
    for (option, value, problem) in [
        (
            "--device",
            "nvme",
            "neither a PCI address such as 0000:01:00.0 nor memory:SIZE",
        ),
        (
            "--device",
            "01:00",
            "neither a PCI address such as 0000:01:00.0 nor memory:SIZE",
        ),
        (
            "--device",
            "memory:",
            "neither a PCI address such as 0000:01:00.0 nor memory:SIZE",
        ),
        ("--device", "0000:01:20.0", "neither a PCI address"),
        ("--device", "0000:01:00.8", "neither a PCI address"),
        ("--memory", "half", "not a size such as 512M"),
        ("--memory", "1.5G", "not a size such as 512M"),
        ("--cpus", "0", "0 is not in 1..=64"),
        ("--cpus", "65", "65 is not in 1..=64"),
        ("--cpus", "two", "invalid digit found in string"),
        ("--abi", "dmabuf", "dmabuf"),
    ] {
        let said = refused(&kernel.path(), &[option, value]);
        let start = format!("error: invalid value '{value}' for '{option} <");
        assert!(said.starts_with(&start), "{said}");
        assert!(said.contains(problem), "{said}");
    }
    let said = failure(&["boot"]);
    assert!(said.contains("--kernel <FILE>"), "{said}");
}

#[test]
fn a_memory_function_of_an_impossible_size_is_told_with_its_device_number() {
    let Some(_) = kvm() else { return };
    let kernel = kernel();
    let of = |sizes: &[&str]| {
        let args: Vec<&str> = sizes.iter().flat_map(|size| ["--device", size]).collect();
        refused(&kernel.path(), &args)
    };
    let said = "vmm: PCI device 1: 0x800 bytes of device memory are too few: the least is 0x1000\n";
    assert_eq!(of(&["memory:2K"]), said);
    let said = of(&["memory:4K", "memory:3M"]);
    assert!(said.starts_with("vmm: PCI device 2: "), "{said}");
    assert!(said.contains("power of two"), "{said}");
    let said = of(&["memory:4E"]);
    let start =
        "vmm: PCI device 1: 0x4000000000000000 bytes of device memory cannot be allocated: ";
    assert!(said.starts_with(start), "{said}");
    assert_eq!(said.matches("(os error").count(), 1, "{said}");
    let said = of(&["memory:4K"; 32]);
    assert_eq!(
        said,
        "vmm: all 32 device numbers of the PCI bus are in use\n"
    );
}

#[test]
fn a_device_that_does_not_exist_or_is_not_bound_is_named() {
    let Some(_) = kvm() else { return };
    let kernel = kernel();
    let said = refused(&kernel.path(), &["--device", "ffff:ff:1f.7"]);
    assert!(
        said.starts_with("vmm: ffff:ff:1f.7 cannot be assigned: "),
        "{said}"
    );
}

#[test]
fn a_device_file_that_is_not_kvms_is_named() {
    let kernel = kernel();
    let of = |device: &str| refused(&kernel.path(), &["--kvm-device", device]);
    let said = "vmm: /nonexistent cannot be opened: No such file or directory (os error 2)\n";
    assert_eq!(of("/nonexistent"), said);
    assert!(of("/dev/null").starts_with("vmm: /dev/null is not KVM: "));
}

#[test]
fn the_help_teaches_how_to_boot_leave_and_read_the_end() {
    let output = vmm(&["boot", "--help"]);
    let text = stdout(&output);
    for word in [
        "Examples:\n",
        "vmm boot --kernel vmlinuz --initrd initrd.img\n",
        "--device 0000:01:00.0",
        "--device memory:1M",
        "vfio-pci",
        "Ctrl-A X",
        "[default: 512M]",
        "Exit status: 0 if the guest switched itself off",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
