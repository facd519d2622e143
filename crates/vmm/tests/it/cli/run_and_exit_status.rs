// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program as a user starts it: what it prints where, and how it exits.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::common::{example, failure, json, machine_file, stderr, stdout, vmm};
use serde_json::Value;

const KERNELS: [&str; 4] = ["6.1", "6.12", "6.18", "7.3"];

const HOWS: [&str; 5] = ["direct", "mmio", "rom-write", "memory-fault", "error"];

const NO_SLOT: &str = "unsupported by this kernel's ABI: no memslot without a host address";

/// A machine of one page whose script expects the wrong value.
const WRONG: &str = r#"
region = [{ name = "ram", kind = "ram", at = 0, size = "4K" }]
step = [{ do = "read", at = 0x10, expect = 5, how = "direct" }]
"#;

fn is_hex(value: &Value) -> bool {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
    digits.is_some_and(|digits| u64::from_str_radix(digits, 16).is_ok())
}

#[test]
fn the_built_in_machine_runs_on_the_simulated_kvm_and_reports_what_the_design_says() {
    let report = json(&["run", "--backend", "sim", "--json"], 0);
    assert_eq!(report["backend"], "sim");
    assert_eq!(report["ok"], true);
    let kernel = report["kernel"].as_str().unwrap();
    assert!(kernel.starts_with("simulated 7.3"), "{kernel}");

    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 45);
    for (index, step) in steps.iter().enumerate() {
        assert_eq!(step["n"], index + 1);
        assert!(step["op"].is_string());
        assert!(is_hex(&step["gpa"]) && is_hex(&step["size"]), "{step}");
        assert!(HOWS.contains(&step["how"].as_str().unwrap()), "{step}");
        assert!(step["value"].is_string() || step["value"].is_null());
        assert!(step["expected"].is_string() || step["expected"].is_null());
        assert_eq!(step["ok"], true, "{step}");
    }

    let slots = report["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 9);
    for slot in slots {
        assert!(slot["id"].is_u64());
        assert!(is_hex(&slot["gpa"]) && is_hex(&slot["size"]), "{slot}");
        let mut flags = slot["flags"].as_array().unwrap().iter();
        assert!(flags.all(Value::is_string));
        assert!(slot["backing"].is_string());
    }
}

#[test]
fn the_keys_of_the_json_are_the_designs_and_the_documented_ones_more() {
    let report = json(&["--backend", "sim", "--json"], 0);
    let keys = |value: &Value| -> Vec<String> {
        let object = value.as_object().unwrap();
        object.keys().cloned().collect()
    };
    let design = ["backend", "kernel", "steps", "slots", "ok"];
    let more = ["why_backend", "machine", "unsupported", "slots_after"];
    let found = keys(&report);
    assert_eq!(found.len(), design.len() + more.len(), "{found:?}");
    assert!(
        design
            .iter()
            .chain(&more)
            .all(|key| report.get(key).is_some())
    );

    let step = &report["steps"][0];
    let design = ["n", "op", "gpa", "size", "how", "value", "expected", "ok"];
    let more = ["expected_how", "unsupported", "region", "note", "slot_ops"];
    assert_eq!(keys(step).len(), design.len() + more.len());
    assert!(
        design
            .iter()
            .chain(&more)
            .all(|key| step.get(key).is_some())
    );

    let slot = keys(&report["slots"][0]);
    assert_eq!(slot, ["id", "gpa", "size", "flags", "backing"]);
}

#[test]
fn private_mmio_is_direct_with_the_abi_and_unsupported_without_it() {
    let with = json(&["run", "--backend", "sim", "--json"], 0);
    let without = json(&["run", "--backend", "sim", "--abi", "none", "--json"], 0);
    let what = |report: &Value| -> Vec<Vec<Value>> {
        let steps = report["steps"].as_array().unwrap().iter();
        let keys = ["n", "op", "gpa", "size"];
        steps
            .map(|s| keys.map(|key| s[key].clone()).to_vec())
            .collect()
    };
    assert_eq!(what(&with), what(&without));

    let at = |report: &Value| -> Value {
        let steps = report["steps"].as_array().unwrap();
        let at = |step: &&Value| step["gpa"] == "0xe0000000" && step["op"] == "read";
        steps.iter().find(at).unwrap().clone()
    };
    assert_eq!(at(&with)["how"], "direct");
    assert_eq!(at(&with)["value"], "0x10000ed");
    assert_eq!(at(&without)["how"], "error");
    assert_eq!(at(&without)["value"], NO_SLOT);
    assert_eq!(with["unsupported"].as_array().unwrap().len(), 0);
    assert_eq!(without["unsupported"][0]["region"], "private-registers");
    assert_eq!(without["unsupported"][0]["why"], NO_SLOT);
}

#[test]
fn every_abi_has_a_name_and_its_bit_can_be_chosen() {
    for abi in [
        "fd-offset",
        "fd-offset=9",
        "rfc-dmabuf",
        "rfc-dmabuf=5",
        "push",
    ] {
        let report = json(&["run", "--backend", "sim", "--abi", abi, "--json"], 0);
        let missing = report["unsupported"].as_array().unwrap();
        let private = |entry: &&Value| entry["region"] == "private-registers";
        assert!(!missing.iter().any(|entry| private(&entry)), "{abi}");
    }
    // The RFCs' slots have a device's dma-buf as a whole, and this is a part.
    let path = example("assigned-device");
    let arguments = [
        "run",
        &path,
        "--backend",
        "sim",
        "--abi",
        "rfc-dmabuf",
        "--json",
    ];
    let why = json(&arguments, 0)["unsupported"][0]["why"].to_string();
    assert!(why.contains("only as a whole"), "{why}");
    for wrong in ["dmabuf", "push=3", "fd-offset=2"] {
        let output = vmm(&["run", "--backend", "sim", "--abi", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(stderr(&output).contains(wrong));
    }
}

#[test]
fn the_summary_says_how_many_steps_the_kernel_cannot_do() {
    let last = |arguments: &[&str]| {
        let output = vmm(arguments);
        stdout(&output).lines().last().unwrap().to_string()
    };
    let with = last(&["run", "--backend", "sim"]);
    assert_eq!(with, "All 45 steps as expected.");
    let without = last(&["run", "--backend", "sim", "--abi", "none"]);
    let said = "All 45 steps as expected; 7 of them are unsupported by this kernel.";
    assert_eq!(without, said);
}

#[test]
fn every_example_runs_on_every_simulated_kernel() {
    for name in [
        "assigned-device",
        "confidential",
        "large",
        "memory-faults",
        "pc",
        "tee-device",
    ] {
        for kernel in KERNELS {
            let path = example(name);
            let output = vmm(&["run", &path, "--backend", "sim", "--sim-kernel", kernel]);
            assert_eq!(output.status.code(), Some(0), "{name} on {kernel}");
            let text = stdout(&output);
            let last = text.lines().last().unwrap();
            assert!(
                last.starts_with("All ") && last.contains(" as expected"),
                "{name}: {last}"
            );
            assert!(!text.contains("WRONG"));
            assert_eq!(stderr(&output), "");
        }
    }
}

#[test]
fn without_arguments_the_built_in_machine_runs() {
    let output = vmm(&["--backend", "sim"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(text.starts_with("Machine  built-in: "), "{text}");
    assert!(text.contains("Backend  sim: asked for\n"));
    assert!(text.ends_with("All 45 steps as expected.\n"));

    // Nothing at all: whichever KVM there is, all steps are as expected.
    let output = vmm(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("Machine  built-in: "));
}

#[test]
fn a_wrong_expectation_is_shown_and_is_exit_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = machine_file(folder.path(), WRONG);
    let output = vmm(&["run", &path, "--backend", "sim"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("WRONG"), "{text}");
    let row = text.lines().find(|line| line.contains("WRONG")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        words[1..7],
        ["WRONG", "read", "0x10", "0x4", "direct", "0x0"]
    );
    assert!(text.contains(&format!("{row}\n          expected direct 0x5\n")));
    assert!(text.ends_with("1 of 1 steps NOT as expected.\n"), "{text}");

    let report = json(&["run", &path, "--backend", "sim", "--json"], 1);
    assert_eq!(report["ok"], false);
    let step = &report["steps"][0];
    assert_eq!(
        (&step["value"], &step["expected"]),
        (&"0x0".into(), &"0x5".into())
    );
}

#[test]
fn a_script_that_is_cut_short_after_a_wrong_step_is_exit_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let endless = r#"
        [[region]]
        name = "box"
        kind = "container"
        at = 0
        size = "1T"
        [[region]]
        name = "r{}"
        kind = "mmio"
        device = "counter"
        in = "box"
        at = 0
        size = "4K"
        repeat = { count = 5000, stride = "8K" }
        [[step]]
        do = "read"
        at = 0
        how = "direct"
        expect = 5
        [[step]]
        do = "move"
        region = "box"
        to = "1T"
        repeat = { count = 50000, stride = "4K" }
    "#;
    let path = machine_file(folder.path(), endless);
    let run = ["run", &path, "--backend", "sim", "--seconds", "1"];
    let output = vmm(&run);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(" was not run: "));
    let last = stdout(&output).lines().last().unwrap();
    assert!(
        last.starts_with("1 of ") && last.ends_with(" were not run."),
        "{last}"
    );
    let output = vmm(&[&run[..], &["--json"]].concat());
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""));
}

#[test]
fn a_step_on_a_region_outside_the_address_space_has_no_address() {
    let folder = tempfile::tempdir().unwrap();
    let spare = r#"
        region = [
            { name = "bus", kind = "container", size = "1M" },
            { name = "ram", kind = "ram", in = "bus", at = "64K", size = "4K" },
            { name = "all", kind = "reserved", size = "16E" },
        ]
        step = [
            { do = "move", region = "ram", to = "128K" },
            { do = "disable", region = "all" },
        ]
    "#;
    let path = machine_file(folder.path(), spare);
    let report = json(&["run", &path, "--backend", "sim", "--json"], 0);
    let places = [0, 1].map(|n| {
        let step = &report["steps"][n];
        (&step["gpa"], step["size"].as_str().unwrap())
    });
    assert_eq!(
        places,
        [
            (&Value::Null, "0x1000"),
            (&Value::Null, "0x10000000000000000")
        ]
    );
    let output = vmm(&["run", &path, "--backend", "sim"]);
    let rows = ["- 0x1000 direct done", "- 0x10000000000000000 direct done"];
    for row in rows {
        assert!(stdout(&output).contains(row), "{}", stdout(&output));
    }
}

#[test]
fn a_bad_machine_file_is_named_with_line_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = machine_file(folder.path(), "[[region]]\nname = \"r\"\nkind = \"lamp\"\n");
    for command in ["run", "map"] {
        let text = failure(&[command, &path]);
        let start = format!("vmm: {path}:3: region 'r': field 'kind': 'lamp' is none of: ");
        assert!(text.starts_with(&start), "{text}");
    }
}

#[test]
fn a_machine_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let said = failure(&["run", "/nonexistent.toml"]);
    assert_eq!(
        said,
        "vmm: /nonexistent.toml: No such file or directory (os error 2)\n"
    );
    let said = failure(&["run", folder]);
    assert_eq!(
        said,
        format!("vmm: {folder}: Is a directory (os error 21)\n")
    );
    // It tells no size, and does not end.
    let said = failure(&["map", "/dev/zero"]);
    assert_eq!(said, "vmm: /dev/zero: it is larger than 4194304 bytes\n");
}

#[test]
fn an_unknown_backend_is_told_which_there_are() {
    let said = failure(&["run", "--backend", "xen"]);
    assert!(said.contains("invalid value 'xen'"), "{said}");
    assert!(said.contains("auto, kvm, sim"), "{said}");
}

#[test]
fn a_kvm_that_was_asked_for_and_is_not_there_is_named() {
    let said = failure(&["--backend", "kvm", "--kvm-device", "/nonexistent"]);
    let why = "cannot be opened: No such file or directory (os error 2)";
    assert_eq!(said, format!("vmm: /nonexistent {why}\n"));

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let said = failure(&["--backend", "kvm", "--kvm-device", folder]);
    let why = "cannot be opened: Is a directory (os error 21)";
    assert_eq!(said, format!("vmm: {folder} {why}\n"));
}

#[test]
fn something_that_is_not_kvm_is_never_taken_for_a_missing_kvm() {
    for backend in ["kvm", "auto"] {
        let said = failure(&["--backend", backend, "--kvm-device", "/dev/null"]);
        assert!(said.starts_with("vmm: /dev/null is not KVM: "), "{said}");
    }
}

#[test]
fn without_kvm_the_simulated_one_is_used_and_the_report_says_why() {
    let report = json(&["--kvm-device", "/nonexistent", "--json"], 0);
    assert_eq!(report["backend"], "sim");
    let why = "/nonexistent cannot be opened: No such file or directory (os error 2)";
    assert_eq!(report["why_backend"], why);
    let output = vmm(&["--kvm-device", "/nonexistent"]);
    let line = format!("\nBackend  sim: {}\n", why.replace(" 2)", "\n         2)"));
    assert!(stdout(&output).contains(&line));
}

#[test]
fn a_kvm_that_may_not_be_opened_is_told_apart_from_one_that_is_missing() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvm");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    let path = path.to_str().unwrap();
    let said = failure(&["--backend", "kvm", "--kvm-device", path]);
    // Root may open everything; then it is no KVM.
    let refused = format!("vmm: {path} cannot be opened: Permission denied (os error 13)\n");
    let no_kvm = format!("vmm: {path} is not KVM: ");
    assert!(said == refused || said.starts_with(&no_kvm), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let forms: [&[&str]; 3] = [
        &["run", "--backend", "sim", &example("large")],
        &["run", "--backend", "sim", "--json", &example("large")],
        &["map", "--as", "json", &example("large")],
    ];
    for args in forms {
        let mut program = Command::new(env!("CARGO_BIN_EXE_vmm"));
        program
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        let mut line = String::new();
        let mut reader = BufReader::with_capacity(16, child.stdout.take().unwrap());
        reader.read_line(&mut line).unwrap();
        drop(reader);
        let output = child.wait_with_output().unwrap();
        assert_eq!(stderr(&output), "", "{args:?}");
        assert_ne!(output.status.code(), Some(101), "{args:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut program = Command::new(env!("CARGO_BIN_EXE_vmm"));
    program.args(["map", "--as", "svg"]).stdout(full.unwrap());
    let output = program.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "vmm: No space left on device (os error 28)\n"
    );
}

#[test]
fn the_help_names_every_command_and_gives_examples() {
    let output = vmm(&["--help"]);
    let text = stdout(&output);
    for word in ["\n  run ", "\n  map ", "Examples:\n", "Exit status: 0 if "] {
        assert!(text.contains(word), "{word}: {text}");
    }
    for command in ["run", "map"] {
        assert!(vmm(&[command, "--help"]).status.success());
    }
}

#[test]
fn options_before_a_command_are_refused_rather_than_ignored() {
    for command in ["run", "map"] {
        failure(&["--backend", "sim", command]);
        failure(&["--json", command, &example("pc")]);
    }
}

#[test]
fn a_machine_with_real_devices_is_shown_without_them_but_not_simulated() {
    let machine = example("real-devices");
    let output = vmm(&["map", &machine, "--as", "flat"]);
    let said = "trap      mmio\n      nvme.bar0.trap@0x2000: host page holds";
    assert!(stdout(&output).contains(said), "{}", stdout(&output));
    let why = failure(&["run", &machine, "--backend", "sim"]);
    assert!(why.contains("the machine has real devices"), "{why}");
}
