// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the hypervisor on the simulated and the real KVM. A test that this
//! machine cannot run is listed as ignored, with the reason.

mod changes;
mod confidential;
mod dirty;
mod hosts;
mod random;
mod registers;

use libtest_mimic::{Arguments, Trial};

use hosts::{Machine, Need};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    // Runs each test on both, generic over the VM.
    macro_rules! both {
        ($need:expr, $($module:ident::$test:ident),* $(,)?) => {$(
            let name = stringify!($test);
            trials.push(Trial::test(format!("sim::{name}"), || {
                $module::$test(hosts::simulated($need));
                Ok(())
            }));
            trials.push(on_real(name, $need, || {
                $module::$test(hosts::real($need)?);
                Ok(())
            }));
        )*};
    }
    both!(
        Need::Plain,
        changes::the_guest_reaches_what_is_visible,
        changes::moving_memory_is_one_operation_and_holds_no_vcpu,
        changes::a_change_that_kvm_refuses_changes_nothing,
        changes::addresses_that_no_processor_has_are_refused_before_kvm_is_asked,
        changes::a_change_that_the_hypervisor_refuses_is_rolled_back,
        changes::a_vcpu_never_sees_a_gap_in_its_ram,
        dirty::writes_are_found_after_their_slot_was_split_and_moved,
        dirty::a_write_of_the_vmm_is_reported_to_each_client_once,
        random::random_changes_match_a_painted_model,
    );
    both!(
        Need::PrivatePages,
        confidential::a_converted_page_leaves_no_bytes_behind,
        confidential::a_hypercall_converts_all_pages_or_none,
        confidential::private_pages_follow_memory_that_moves,
        confidential::private_pages_are_never_hidden,
    );
    // No released kernel has the slots that these need.
    for (name, test) in registers::ALL {
        trials.push(Trial::test(format!("sim::{name}"), move || {
            test(hosts::simulated(Need::PrivatePages));
            Ok(())
        }));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test on the real KVM, ignored if the KVM lacks what it needs.
fn on_real(
    name: &str,
    need: Need,
    test: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Trial {
    let name = format!("kvm::{name}");
    let lacks = hosts::real(need).map(|_: Machine<_>| ()).err();
    let trial = Trial::test(name, || Ok(test()?));
    match lacks {
        Some(why) => trial
            .with_kind(format!("skipped: {why}"))
            .with_ignored_flag(true),
        None => trial,
    }
}
