// SPDX-License-Identifier: Apache-2.0
// `kvm-p2v dialog`: what runs on the boot medium, as text windows for a person or, with --unattended, as the kernel's
// command line says. What comes after it (poweroff, …) is left to the medium's /init, which reads it from a file.
#pragma once

#include "cmd/cli.h"
#include "libconvert/p2v/medium_settings.h"

#include <filesystem>
#include <string>

namespace kvmport {

struct DialogArguments {
  std::filesystem::path command_line = "/proc/cmdline", after, log = "/run/p2v/capture.log";
  bool unattended = false;
};

CLI::App* add_dialog_command(CLI::App& app, DialogArguments& arguments);
int run_dialog(const DialogArguments& arguments, Console& console, const StopToken& stop);

/// The presets, with the key that the medium was given.
MediumSettings medium_presets(const std::filesystem::path& command_line);

/// Does what the presets say, in plain lines, and returns what is to follow; `dialog` where a person is needed.
AfterCapture run_unattended(const DialogArguments& arguments, Console& console, const StopToken& stop);

/// The windows (cmd/dialog_pages.cc).
AfterCapture run_dialog_pages(const DialogArguments& arguments, const StopToken& stop);

} // namespace kvmport
