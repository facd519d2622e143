// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The caller's choices, where there is more than one right answer.

/// Where the guest finds the MSI-X table and pending bit array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MsixPlacement {
    /// Where the device has them: their host pages are carved out of the BAR and trapped, and
    /// registers that share the pages are trapped too.
    #[default]
    Carve,
    /// Elsewhere, see [`Relocation`](crate::Relocation): the VMM emulates both behind the end of an
    /// enlarged BAR, and the device's own ones are mapped like any other page. This is for devices
    /// with registers in these pages that must be fast. The guest can then write the device's table,
    /// so the host needs interrupt remapping, and VFIO must offer to map the table: without the
    /// region's MSI-X-mappable capability, the pages are still trapped.
    Relocate,
}

/// What happens to the host pages of the MSI-X pending bit array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PbaPolicy {
    /// They are trapped, so the VMM can show pending bits of the interrupts it emulates.
    #[default]
    Trap,
    /// They are mapped like any other page. A register that shares the page becomes fast. The guest
    /// cannot read emulated pending bits, which drivers rarely do.
    Map,
}

/// What happens to a memory BAR that is smaller than a host page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubPagePolicy {
    /// It is trapped. This is always correct: the guest reaches nothing but the BAR.
    #[default]
    Trap,
    /// It may be mapped, with the rest of its host page. The caller must give the BAR a whole, aligned
    /// host page of guest-physical address space.
    ///
    /// The rest of the page is no other device's, and no other BAR's: vfio-pci sets the mmap flag of
    /// such a BAR only if the BAR starts on a page and the rest of the page is free, and reserves the
    /// rest until the device is closed. Nothing responds there. What the guest's accesses to it do is
    /// up to the host: on most, loads return all ones and stores are dropped, and some report an
    /// error.
    Expand,
}

/// What happens to MSI-X structures that the TDISP report puts in TEE memory.
///
/// A device reports the ranges of its MSI-X table and PBA if the host locked them together with the
/// interface. From then on only the guest can write those in TEE memory. A VMM that traps such a
/// table cannot carry out the guest's writes: the device rejects them, and no interrupt arrives. So
/// trapping is not a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TeeMsixPolicy {
    /// It is an error, like everything else that private bytes would share a host page with. This is
    /// right for a VMM that sets up the device's vectors itself, as all VMMs with VFIO's interrupts
    /// do: such a VMM must not let the device lock MSI-X.
    #[default]
    Refuse,
    /// They are private: the guest writes the vectors, and the VMM does not see it. This is right only
    /// if the platform's interrupt remapping confines the vectors that the guest chooses. Only a range
    /// that the report marks becomes private; a TEE range that holds the table without a mark is still
    /// an error.
    Private,
}

/// The caller's choices. The default is the careful choice: trap, or refuse.
///
/// ```
/// use vfio_private::{PbaPolicy, Policy, SubPagePolicy};
///
/// let policy = Policy::new().with_pba(PbaPolicy::Map);
/// assert_eq!(policy.pba(), PbaPolicy::Map);
/// assert_eq!(policy.sub_page(), SubPagePolicy::Trap);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    pba: PbaPolicy,
    sub_page: SubPagePolicy,
    tee_msix: TeeMsixPolicy,
    placement: MsixPlacement,
}

impl Policy {
    /// The default policy.
    pub const fn new() -> Self {
        Self {
            pba: PbaPolicy::Trap,
            sub_page: SubPagePolicy::Trap,
            tee_msix: TeeMsixPolicy::Refuse,
            placement: MsixPlacement::Carve,
        }
    }

    /// The same policy with another choice for the MSI-X pending bit array.
    #[must_use]
    pub const fn with_pba(self, pba: PbaPolicy) -> Self {
        Self { pba, ..self }
    }

    /// The same policy with another choice for BARs smaller than a host page.
    #[must_use]
    pub const fn with_sub_page(self, sub_page: SubPagePolicy) -> Self {
        Self { sub_page, ..self }
    }

    /// The same policy with another choice for MSI-X structures in TEE memory.
    #[must_use]
    pub const fn with_tee_msix(self, tee_msix: TeeMsixPolicy) -> Self {
        Self { tee_msix, ..self }
    }

    /// The same policy with another place for the MSI-X structures.
    #[must_use]
    pub const fn with_msix(self, placement: MsixPlacement) -> Self {
        Self { placement, ..self }
    }

    /// Where the guest finds the MSI-X structures.
    pub const fn msix(self) -> MsixPlacement {
        self.placement
    }

    /// What happens to the pending bit array.
    pub const fn pba(self) -> PbaPolicy {
        self.pba
    }

    /// What happens to BARs smaller than a host page.
    pub const fn sub_page(self) -> SubPagePolicy {
        self.sub_page
    }

    /// What happens to MSI-X structures in TEE memory.
    pub const fn tee_msix(self) -> TeeMsixPolicy {
        self.tee_msix
    }
}
