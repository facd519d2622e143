// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars`: what each source of facts contributes.

use crate::common::bars::bars;
use crate::common::{failure, stdout, vmm};
use serde_json::{Value, json};
use support::devices::{Files, NIC, NVME, dump, lines, nvme_config};

const NVME_LINES: [&str; 3] = [
    "0 0x0 0x2000 shared",
    "0 0x2000 0x1000 trap",
    "0 0x3000 0x1000 shared",
];

#[test]
fn the_json_has_the_keys_and_values_that_scripts_rely_on() {
    let files = Files::new();
    let answer = bars(&["--config", &files.put("nvme.txt", NVME)]);
    let piece = |offset: &str, size: &str, access: &str, direct: bool, reasons: Value| {
        json!({"offset": offset, "size": size, "access": access,
               "kvm": direct, "dma": direct, "reasons": reasons})
    };
    let open = || json!(["no TDISP report makes it private"]);
    let msix = json!([
        "host page holds the MSI-X table",
        "host page holds the MSI-X pending bit array (PBA)"
    ]);
    let notes = json!([
        "VFIO maps: not known (--regions): each memory BAR is taken as mappable",
        "TDISP: no report (--report): nothing is private",
    ]);
    let expected = json!({
        "device": NVME.lines().next().unwrap(),
        "page_size": "0x1000",
        "msix": {
            "table": {"bar": 0, "offset": "0x2000", "size": "0x210"},
            "pba": {"bar": 0, "offset": "0x2800", "size": "0x8"},
        },
        "bars": [{
            "bar": 0, "kind": "memory", "size": "0x4000", "width": "64-bit",
            "prefetchable": false,
            "pieces": [
                piece("0x0", "0x2000", "shared", true, open()),
                piece("0x2000", "0x1000", "trap", false, msix),
                piece("0x3000", "0x1000", "shared", true, open()),
            ],
            "notes": notes,
        }],
        "notes": notes,
    });
    assert_eq!(answer, expected);
}

#[test]
fn text_with_and_without_a_dump_gives_the_same() {
    let files = Files::new();
    for len in [64, 256, 4096] {
        let both = format!("{NVME}{}\n", dump(&nvme_config(len)));
        let answer = bars(&["--config", &files.put("both.txt", &both)]);
        assert_eq!(lines(&answer), NVME_LINES, "{len}");
    }
    // One command after the other, both of the same device.
    let header = NVME.lines().next().unwrap();
    let twice = format!("{NVME}\n{header}\n{}", dump(&nvme_config(256)));
    let answer = bars(&["--config", &files.put("twice.txt", &twice)]);
    assert_eq!(lines(&answer), NVME_LINES);
}

#[test]
fn all_kinds_of_regions_are_read_and_those_of_virtual_functions_are_not() {
    let files = Files::new();
    let answer = bars(&["--config", &files.put("nic.txt", NIC)]);
    let expected = [
        "0 0x0 0x20000 shared",
        "2 0x0 0x20 trap",
        "3 0x0 0x100 trap",
        "4 0x0 0x1000 trap",
        "4 0x1000 0x3000 shared",
    ];
    assert_eq!(lines(&answer), expected);
}

#[test]
fn a_device_is_chosen_among_several_by_its_address_with_or_without_domain() {
    let files = Files::new();
    let all = files.put("all.txt", format!("$ lspci -vv\n{NIC}\n{NVME}\n"));
    for address in ["01:00.0", "0000:01:00.0"] {
        assert_eq!(lines(&bars(&[address, "--config", &all])), NVME_LINES);
    }
    let error = failure(&["bars", "--config", &all]);
    assert!(
        error.contains("several devices, name one: 0000:01:00.0, 0000:03:00.0"),
        "{error}"
    );
    let error = failure(&["bars", "02:00.0", "--config", &all]);
    assert!(
        error.contains("no 0000:02:00.0 in the text, only 0000:01:00.0, "),
        "{error}"
    );
}

#[test]
fn text_as_people_paste_it_is_read() {
    let files = Files::new();
    let without_first_line = NVME.split_once('\n').unwrap().1.to_string();
    let quoted: String = NVME.lines().map(|line| format!("> > {line}\r\n")).collect();
    let flat: String = NVME
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    let encoded = NVME.replace('=', "=3D");
    let broken = NVME.replace(" [size=16K]", "\n[size=16K]");
    let fenced = format!("```\n{NVME}```\n");
    let old = NVME.replace("Count=33 Masked-", "Mask- TabSize=33");
    let pastes = [
        without_first_line,
        quoted,
        flat,
        encoded,
        broken,
        fenced,
        old,
    ];
    for paste in pastes {
        let answer = bars(&["--config", &files.put("paste.txt", &paste)]);
        assert_eq!(lines(&answer), NVME_LINES, "{paste}");
    }
    // A name in another encoding.
    let at = NVME.find("ample").unwrap();
    let mut latin = NVME.as_bytes().to_vec();
    latin[at] = 0xe9;
    let answer = bars(&["--config", &files.put("latin.txt", latin)]);
    assert_eq!(lines(&answer), NVME_LINES);
}

#[test]
fn raw_configuration_space_needs_sizes_and_says_which_option_has_them() {
    let files = Files::new();
    let raw = files.put("config", nvme_config(256));
    let error = failure(&["bars", "--config", &raw]);
    assert!(error.contains("the size of BAR 0 is not known"), "{error}");
    assert!(error.contains("give --regions FILE.json"), "{error}");

    let regions = files.put(
        "regions.json",
        r#"[{"index":0,"size":"0x4000","flags":["read","write","mmap"],"msix_mappable":true}]"#,
    );
    for len in [256, 4096] {
        let raw = files.put("config", nvme_config(len));
        let answer = bars(&["--config", &raw, "--regions", &regions]);
        assert_eq!(lines(&answer), NVME_LINES);
    }
    // The header alone hides MSI-X.
    let raw = files.put("config", nvme_config(64));
    let error = failure(&["bars", "--config", &raw, "--regions", &regions]);
    assert!(error.contains("capability at offset 0x40"), "{error}");
    assert!(error.contains("only root"), "{error}");
}

#[test]
fn regions_win_over_the_text_and_say_what_may_be_mapped() {
    let files = Files::new();
    let text = files.put("nvme.txt", NVME);
    let answer = |regions: &str| {
        let regions = files.put("regions.json", regions);
        bars(&["--config", &text, "--regions", &regions])
    };
    let sparse = r#"[
        {"index":0,"size":"0x8000","flags":["read","write","mmap","caps"],
         "sparse":[{"offset":"0x3000","size":20480},{"offset":0,"size":"0"}]},
        {"index":1,"size":0,"flags":[]},
        {"index":2,"size":"0x1000","flags":["read","write"]},
        {"index":7,"size":"0x1000","flags":["read","write"]}
    ]"#;
    let found = answer(sparse);
    // `lspci -F` reads a dump and has no sizes.
    let without = files.put("nvme-F.txt", NVME.replace(" [size=16K]", ""));
    let regions = files.put("regions.json", sparse);
    let again = bars(&["--config", &without, "--regions", &regions]);
    assert_eq!(lines(&found), lines(&again));
    let error = failure(&[
        "bars",
        "--config",
        &text,
        "--regions",
        &files.put(
            "upper.json",
            sparse.replace("\"index\":1,\"size\":0", "\"index\":1,\"size\":16"),
        ),
    ]);
    assert!(
        error.contains("number 1 is the upper half of BAR 0"),
        "{error}"
    );
    let expected = [
        "0 0x0 0x2000 trap",
        "0 0x2000 0x1000 trap",
        "0 0x3000 0x5000 shared",
        "2 0x0 0x1000 trap",
    ];
    assert_eq!(lines(&found), expected);
    let reasons = &found["bars"][0]["pieces"][1]["reasons"];
    assert_eq!(
        reasons[2],
        "VFIO refuses to map the MSI-X table's host page"
    );
}

#[test]
fn an_io_bar_that_the_regions_leave_out_is_told_and_a_memory_bar_is_an_error() {
    let files = Files::new();
    let mut config = nvme_config(256);
    config[0x18..0x1c].copy_from_slice(&0xe021_u32.to_le_bytes());
    let raw = files.put("config", &config);
    let region = |index| format!(r#"{{"index":{index},"size":"0x4000","flags":["mmap"]}}"#);
    let regions = files.put("regions.json", format!("[{}]", region(0)));
    let args = ["--config", &raw, "--regions", &regions];
    assert_eq!(lines(&bars(&args)), NVME_LINES);
    let shown = vmm(&[&["bars"], &args[..]].concat());
    assert!(
        stdout(&shown).contains("BAR 2: I/O ports"),
        "{}",
        stdout(&shown)
    );

    config[0x18..0x1c].copy_from_slice(&0xf780_0000_u32.to_le_bytes());
    let raw = files.put("config", &config);
    let error = failure(&["bars", "--config", &raw, "--regions", &regions]);
    assert!(
        error.contains("the size of BAR 2 is not known: --regions does not list it"),
        "{error}"
    );
}

#[test]
fn the_page_size_of_the_host_may_be_given_in_several_ways() {
    let files = Files::new();
    let text = files.put("nvme.txt", NVME);
    for size in ["65536", "64K", "64k", "0x10000"] {
        let answer = bars(&["--config", &text, "--page-size", size]);
        assert_eq!(lines(&answer), ["0 0x0 0x4000 trap"], "{size}");
        let reasons = &answer["bars"][0]["pieces"][0]["reasons"];
        assert_eq!(reasons[2], "BAR is smaller than a host page");
    }
    for size in ["0", "8192", "2M", "-4096", "0x", "18446744073709551615K"] {
        let error = failure(&["bars", "--config", &text, &format!("--page-size={size}")]);
        assert!(error.contains("none of 4"), "{size}: {error}");
    }
}

#[test]
fn a_live_device_is_read_from_sysfs() {
    let files = Files::new();
    let device = "bus/pci/devices/0000:01:00.0";
    let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
    let nvme = "0x00000000f7c00000 0x00000000f7c03fff 0x0000000000140204\n";
    let io = "0x000000000000e000 0x000000000000e01f 0x0000000000040101\n";
    let rom = "0x00000000f7b00000 0x00000000f7b0ffff 0x0000000000046200\n";
    let resource = [nvme, none, io, none, none, none, rom].concat();
    files.put(&format!("{device}/resource"), &resource);
    files.put(&format!("{device}/config"), nvme_config(4096));
    let sysfs = files.path().to_str().unwrap();
    let answer = bars(&["01:00.0", "--sysfs", sysfs]);
    let expected = [&NVME_LINES[..], &["2 0x0 0x20 trap"]].concat();
    assert_eq!(lines(&answer), expected);

    // A virtual function has no registers for its BARs.
    let mut config = nvme_config(4096);
    config[..4].fill(0xff);
    config[0x10..0x28].fill(0);
    files.put(&format!("{device}/config"), config);
    assert_eq!(lines(&bars(&["01:00.0", "--sysfs", sysfs])), expected);

    let error = failure(&["bars", "02:00.0", "--sysfs", sysfs]);
    assert!(error.contains("there is no device 0000:02:00.0"), "{error}");
    files.put(&format!("{device}/config"), nvme_config(64));
    let error = failure(&["bars", "01:00.0", "--sysfs", sysfs]);
    assert!(error.contains("only root can read more than 64"), "{error}");
    files.put(&format!("{device}/config"), nvme_config(256));
    assert!(vmm(&["bars", "01:00.0", "--sysfs", sysfs]).status.success());
    for (damaged, what) in [
        (
            resource.replacen("0x00", "00", 1),
            "resource:1: expected three hexadecimal numbers",
        ),
        (
            resource.replace("f7c03fff", "f7bfffff"),
            "resource:1: the last address is below",
        ),
        (nvme.to_string(), "1 lines, and a device has at least 6"),
    ] {
        files.put(&format!("{device}/resource"), damaged);
        let error = failure(&["bars", "01:00.0", "--sysfs", sysfs]);
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_line_that_a_mail_has_broken_and_encoded_is_read() {
    let mailed = NVME.replace(" [size=16K]", "\n[size=3D16K]");
    assert_ne!(mailed, NVME);
    let files = Files::new();
    let [whole, mailed] = [("whole", NVME), ("mailed", &mailed)].map(|(name, text)| {
        let path = files.put(name, text);
        lines(&bars(&["--config", &path]))
    });
    assert_eq!(mailed, whole);
}

#[test]
fn errors_call_inputs_by_their_options() {
    let files = Files::new();
    let nothing = files.put("nothing.txt", "hello\n");
    let text = files.put("nvme.txt", NVME);
    let raw = files.put("config", nvme_config(256));
    let large = r#"[{"index":0,"size":"0x800000","flags":["mmap"]}]"#;
    let large = files.put("large.json", large);
    let upper = r#"[{"index":0,"size":"0x4000","flags":[]},{"index":1,"size":16,"flags":[]}]"#;
    let upper = files.put("upper.json", upper);
    let enhanced = files.put(
        "enhanced.txt",
        "01:00.0 X: Y\n\tStatus: Cap+ 66MHz-\n\
         \tCapabilities: [98] Enhanced Allocation (EA): NumEntries=1\n\n",
    );
    for (args, due) in [
        (
            vec!["--config", &nothing],
            "nothing.txt: there is nothing about a device in it: --config takes what `lspci -vv` \
             prints, or the bytes of configuration space",
        ),
        (
            vec!["--config", &raw],
            "config: the size of BAR 0 is not known: configuration space does not have it: give \
             --regions FILE.json, or the text of `lspci -vv` as --config",
        ),
        (
            vec!["--config", &raw, "--regions", &large],
            "config: BAR 0 has 0x800000 bytes by --regions, and its register holds 0xf7c00000",
        ),
        (
            vec!["--config", &text, "--regions", &upper],
            "nvme.txt: --regions: number 1 is the upper half of BAR 0",
        ),
        (
            vec!["--config", &enhanced],
            "give the bytes of configuration space (/sys/bus/pci/devices/…/config) as --config",
        ),
    ] {
        let error = failure(&[&["bars"], &args[..]].concat());
        assert!(error.contains(due), "{error}");
    }
}
