// SPDX-License-Identifier: Apache-2.0
// A swap area of Linux, whose content a machine that starts never reads: all of it but its first page is free, unless a
// hibernated system waits in it. Layout: Linux, include/linux/swap.h (union swap_header) and mm/swapfile.c
// (read_swap_header); what a hibernation leaves: kernel/power/swap.c (HIBERNATE_SIG), uswsusp's swsusp.h, TuxOnIce's
// tuxonice_swap.c.
#pragma once

#include "libconvert/copy/free_map.h"

namespace kvmport {

FreeBlocks read_swap_free(const Image& image, Range range);

} // namespace kvmport
