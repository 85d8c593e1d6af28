// SPDX-License-Identifier: Apache-2.0
// Everything in a guest that names an on-disk UUID or a volume group, renamed: configuration in /etc and on the boot
// filesystems, names of files and targets of links there, boot programs on the EFI system partition that have their
// configuration built in, and what lies inside initramfs images (as a further part of them: the old one stays unchanged
// below it).
#pragma once

#include "libconvert/clone/group_text.h"
#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"

#include <string>
#include <vector>

namespace kvmport {

/// Writes the changes into the draft; one thread. Warns of files that name an old one and can't be edited. Errors:
/// UUID_UNSUPPORTED (a signed boot program names one: a change would void its signature), those of the guest.
void renew_uuids_in_files(const GuestInfo& info, const Renaming& renaming, Draft& draft);

/// The same for one initramfs, which a kernel of `version` unpacks. Files in it that are called after an old one are
/// overwritten by empty ones, since nothing can take a file away from an initramfs. An image that can't be read is left
/// with a warning.
void renew_uuids_in_initramfs(const std::string& path, const std::string& version, const Renaming& renaming,
                              Draft& draft);

} // namespace kvmport
