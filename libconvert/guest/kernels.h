// SPDX-License-Identifier: Apache-2.0
// Installed kernels: images in /boot and on the ESP, their initramfs and their modules, whatever the distribution calls
// them.
#pragma once

#include "libconvert/guest/guest.h"

#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

/// Every kernel image with its initramfs, newest first. A kernel with several of them (Arch's fallback) comes once for
/// each. `boot_directories`: where $BOOT may be, besides /boot (the mounted ESP).
std::vector<Kernel> find_kernels(const GuestFilesystem& guest, const std::vector<std::string>& boot_directories);

} // namespace kvmport
