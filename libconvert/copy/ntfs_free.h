// SPDX-License-Identifier: Apache-2.0
// The free clusters of one NTFS volume, if Windows shut it down completely: no dirty flag, $LogFile closed or empty, no
// hibernated system (Fast Startup hibernates too: then parts of the volume live in hiberfil.sys only). Layout:
// Linux-NTFS documentation 0.5 (Russon, Fledel), "Files" ($MFT, $LogFile, $Volume, $Bitmap), "Concepts" (FILE record,
// data runs, fixup, index); what a clean log looks like and how a hibernated volume is told: ntfs-3g,
// libntfs-3g/logfile.c (ntfs_is_logfile_clean) and volume.c (ntfs_volume_check_hiberfile).
#pragma once

#include "libconvert/copy/free_map.h"

namespace kvmport {

FreeBlocks read_ntfs_free(const Image& image, Range range);

} // namespace kvmport
