// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds environments by their names.

use super::super::architecture::Architecture;
use super::list::{CONFIDENTIAL_GUEST, ENVIRONMENTS, GUESTS};
use super::{Environment, Kernel};

/// The environment with that name.
///
/// # Errors
/// There is none. The message lists the environments.
pub fn find(name: &str) -> Result<Environment, String> {
    let found = ENVIRONMENTS.iter().find(|other| other.name == name);
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = ENVIRONMENTS.iter().map(|other| other.name).collect();
        format!(
            "there is no environment '{name}'; there are: {}",
            known.join(", ")
        )
    })
}

/// The guest of a line, such as `7.3`, for machines of an architecture.
///
/// # Errors
/// There is none. The message lists the lines.
pub fn find_guest(
    architecture: &Architecture,
    line: &str,
    generic: bool,
) -> Result<Environment, String> {
    let suffix = if generic { "-generic" } else { "" };
    let end = format!("guest-{line}{suffix}");
    let mut of = GUESTS.iter().filter(|g| g.architecture == architecture);
    let found = of.clone().find(|guest| guest.name.ends_with(&end));
    found.copied().ok_or_else(|| {
        let lines = of.by_ref().filter_map(|guest| match guest.kernel {
            Kernel::Packaged(packaged) if !guest.name.ends_with("-generic") => Some(packaged.line),
            _ => None,
        });
        let lines: Vec<&str> = lines.collect();
        format!(
            "there is no guest with Linux {line}; there are: {}",
            lines.join(", ")
        )
    })
}

/// The kernels with these names, each once, or the default ones if no name is
/// given. Unlike [`select`], this knows the kernels of guests.
///
/// # Errors
/// An unknown name.
pub fn select_kernels(names: &[String]) -> Result<Vec<Environment>, String> {
    let guests = || GUESTS.into_iter().chain([CONFIDENTIAL_GUEST]);
    let is_guest = |name: &String| guests().any(|guest| guest.name == name);
    let others: Vec<String> = names.iter().filter(|n| !is_guest(n)).cloned().collect();
    let mut selected = match names.is_empty() || !others.is_empty() {
        true => select(&others)?,
        false => Vec::new(),
    };
    let is_selected = |guest: &Environment| match names.is_empty() {
        true => *guest == CONFIDENTIAL_GUEST,
        false => names.iter().any(|name| name == guest.name),
    };
    selected.extend(guests().filter(is_selected));
    Ok(selected)
}

/// The environments with these names, each once, or the default ones if no name
/// is given.
///
/// # Errors
/// An unknown name.
pub fn select(names: &[String]) -> Result<Vec<Environment>, String> {
    match names.is_empty() {
        true => Ok(ENVIRONMENTS.into_iter().filter(|e| e.by_default).collect()),
        false => {
            let mut selected = Vec::new();
            for name in names {
                let environment = find(name)?;
                if !selected.contains(&environment) {
                    selected.push(environment);
                }
            }
            Ok(selected)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::architecture::{AARCH64, ARCHITECTURES, X86_64};
    use crate::lab::environment::{COMPARED, Kernel, Variant, guest_of};
    use crate::shell::root;

    #[test]
    fn no_name_selects_all_but_those_of_one_purpose() {
        let selected = select(&[]).expect("most of them");
        for environment in ENVIRONMENTS {
            assert_eq!(find(environment.name), Ok(environment));
            let by_name_only = [
                "lab-7.3-private-mmio-debug",
                "lab-7.3-gmem-attributes",
                "arm64-lab-7.3-private-mmio",
            ];
            let by_name_only = by_name_only.contains(&environment.name);
            assert_eq!(selected.contains(&environment), !by_name_only);
            let name = environment.name.to_string();
            assert_eq!(select(&[name]), Ok(vec![environment]));
        }
    }

    #[test]
    fn a_guest_is_found_by_its_line_and_flavour() {
        for (architecture, generic, name) in [
            (&X86_64, false, "guest-7.3"),
            (&X86_64, true, "guest-7.3-generic"),
            (&AARCH64, false, "arm64-guest-7.3"),
            (&AARCH64, true, "arm64-guest-7.3-generic"),
        ] {
            let found = find_guest(architecture, "7.3", generic);
            assert_eq!(found.map(|guest| guest.name), Ok(name));
        }
        let error = find_guest(&X86_64, "5.10", false).expect_err("too old");
        let known = "there is no guest with Linux 5.10; there are: 6.1, 6.12, 7.3";
        assert_eq!(error, known);
        assert!(find_guest(&AARCH64, "6.1", false).is_err());
    }

    #[test]
    fn every_environment_with_a_guest_has_one_of_its_architecture() {
        for architecture in ARCHITECTURES {
            let guest = guest_of(architecture).expect("one");
            assert_eq!(Ok(guest), find_guest(architecture, "7.3", true));
        }
    }

    #[test]
    fn the_kernel_of_guests_is_built_by_default_and_is_no_environment() {
        let names = |of: &[&str]| {
            let of: Vec<String> = of.iter().map(ToString::to_string).collect();
            let selected = select_kernels(&of).expect("known");
            selected.iter().map(|e| e.name).collect::<Vec<_>>()
        };
        assert!(find(CONFIDENTIAL_GUEST.name).is_err());
        assert!(names(&[]).ends_with(&["arm64-debian-7.3-16k", CONFIDENTIAL_GUEST.name]));
        assert_eq!(names(&[CONFIDENTIAL_GUEST.name]), [CONFIDENTIAL_GUEST.name]);
        assert_eq!(names(&["guest-6.1"]), ["guest-6.1"]);
        assert_eq!(
            names(&[CONFIDENTIAL_GUEST.name, "host"]),
            ["host", CONFIDENTIAL_GUEST.name]
        );
        assert_eq!(names(&["host"]), ["host"]);
    }

    #[test]
    fn a_variant_has_some_tests_of_another_environments_kernel_or_all_of_its_own() {
        let usual = |environment: &&Environment| environment.variant == Variant::USUAL;
        for variant in ENVIRONMENTS.iter().filter(|other| !usual(other)) {
            let mut others = ENVIRONMENTS.iter().filter(usual);
            let has_kernel = others.any(|other| other.kernel == variant.kernel);
            let has_some_tests = !variant.variant.only.is_empty();
            assert_eq!(has_kernel, has_some_tests, "{variant:?}");
        }
    }

    #[test]
    fn the_compared_environments_differ_by_patches_and_have_selftests() {
        let recipe = |name: &str| {
            let environment = find(name).expect("it is known");
            assert!(environment.has_selftests && environment.by_default);
            match environment.kernel {
                Kernel::Built(recipe) => recipe,
                other => panic!("{name} is not built: {other:?}"),
            }
        };
        let [without, with] = COMPARED.map(recipe);
        assert_eq!(without.line, with.line);
        assert!(without.patches.is_empty() && !with.patches.is_empty());
    }

    #[test]
    fn the_selftests_on_the_simulated_kvm_are_those_of_linux_without_patches() {
        let [simulated, without] = ["simulated", COMPARED[0]].map(|name| {
            let environment = find(name).expect("it is known");
            (environment.is_booted(), environment.selftests())
        });
        assert!(!simulated.0 && without.0);
        assert!(simulated.1.is_some());
        assert_eq!(simulated.1, without.1);
    }

    #[test]
    fn every_kernel_of_the_lab_must_have_kvm_and_vfio_by_names_that_the_tests_know() {
        let needs = root().join("tests").join("src").join("needs.rs");
        let needs = std::fs::read_to_string(needs).expect("the source of the needs");
        for environment in ENVIRONMENTS {
            let required = environment.required;
            let has_both = ["kvm", "vfio"].iter().all(|need| required.contains(need));
            assert_eq!(has_both, environment.is_booted(), "{}", environment.name);
            for need in required {
                assert!(needs.contains(&format!("\"{need}\",")), "{need}");
            }
        }
    }

    #[test]
    fn an_environment_that_is_named_twice_is_selected_once() {
        let names = ["host", "lab-7.3", "host"].map(String::from);
        let names: Vec<&str> = select(&names)
            .expect("known")
            .iter()
            .map(|e| e.name)
            .collect();
        assert_eq!(names, ["host", "lab-7.3"]);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_environments() {
        let error = select(&["lab-0.1".to_string()]).expect_err("there is none");
        assert!(error.contains("'lab-0.1'") && error.contains("debian-6.12, debian-7.3"));
    }
}
