// SPDX-License-Identifier: Apache-2.0
// `kvm-p2v media`: builds the boot medium.
#pragma once

#include "cmd/cli.h"
#include "libconvert/p2v/media.h"

namespace kvmport {

struct MediaArguments {
  MediaOptions options;
  std::string server, host_key, network, name, disks, post, more;
  bool enrol = false, no_convert = false;
};

CLI::App* add_media_command(CLI::App& app, MediaArguments& arguments);
int run_media(const MediaArguments& arguments, Console& console, const StopToken& stop);

} // namespace kvmport
