// SPDX-License-Identifier: Apache-2.0
#include "base/firmware_files.h"

#include "base/error.h"

#include <array>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

struct UefiPair {
  const char *code, *vars;
  bool secure;
};
// Debian and Ubuntu, Fedora and RHEL, Arch, openSUSE.
constexpr auto uefi_pairs = std::to_array<UefiPair>({
    {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", false},
    {"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", true},
    {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd", false},
    {"/usr/share/OVMF/OVMF_CODE.ms.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd", true},
    {"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd", false},
    {"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd", true},
    {"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd", false},
    {"/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin", false},
    {"/usr/share/qemu/ovmf-x86_64-ms-code.bin", "/usr/share/qemu/ovmf-x86_64-ms-vars.bin", true},
});

// Debian and Ubuntu; Fedora, RHEL, Arch and openSUSE keep them with QEMU.
constexpr const char* seabios_directories[] = {"/usr/share/seabios", "/usr/share/qemu"};

} // namespace

UefiImages find_uefi_images(bool secure_boot, const fs::path& nvram) {
  std::error_code error;
  const std::uintmax_t size = nvram.empty() ? 0 : fs::file_size(nvram, error);
  if (error)
    throw system_error(error.value(), "can't read the UEFI variables " + nvram.string());
  bool installed = false;
  for (const UefiPair& pair : uefi_pairs) {
    if (pair.secure != secure_boot || !fs::exists(pair.code, error) || !fs::exists(pair.vars, error))
      continue;
    installed = true;
    if (nvram.empty() || fs::file_size(pair.vars, error) == size)
      return {pair.code, nvram.empty() ? fs::path(pair.vars) : nvram};
  }
  if (!installed)
    throw Error("FIRMWARE_MISSING", "no UEFI firmware (OVMF) is installed", {}, "install the package ovmf (edk2-ovmf)");
  throw Error("NVRAM_UNSUPPORTED", nvram.string() + " is not a variable store of the installed UEFI firmware",
              "its size is " + std::to_string(size) + " bytes", "leave it out: fresh variables are used then");
}

fs::path find_seabios(std::initializer_list<const char*> names) {
  std::error_code error;
  for (const char* directory : seabios_directories)
    for (const char* name : names)
      if (const fs::path path = fs::path(directory) / name; fs::is_regular_file(path, error))
        return path;
  throw Error("FIRMWARE_MISSING", std::string("SeaBIOS's ") + *names.begin() + " is not installed", {},
              "install the package seabios");
}

} // namespace kvmport
