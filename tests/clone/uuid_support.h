// SPDX-License-Identifier: Apache-2.0
// Old UUIDs and names of volume groups with their successors, of every form, for the tests of what replaces them.
#pragma once

#include "libconvert/clone/group_text.h"
#include "libconvert/clone/uuid_text.h"

#include <vector>

namespace kvmport::test {

inline const std::vector<UuidChange> changes{
    {"/dev/vda2 (ext4)", "1a2b3c4d-0001-4002-8003-aabbccddeeff", "9f8e7d6c-1111-4222-9333-000102030405"},
    {"/dev/vda3 (swap)", "5ac81070-7957-5beb-983a-c73dacaaa0d3", "d758a155-df03-4512-8cc1-2a0cb829ed74"},
    {"/dev/vda1 (vfat)", "ABCD-12EF", "9E8D-7C6B"},
    {"partition 1 of disk 0", "612e9c80-01", "f1d8a2cf-01"},
    {"partition table of disk 0", "612e9c80", "f1d8a2cf"},
    {"volume group vg0", "oO8Nsr-aB1c-dE2f-gH3i-jK4l-mN5o-pQ6rSt", "Zz9Yx8-Ww7V-Uu6T-Ss5R-Qq4P-Oo3N-Mm2LkJ"},
    {"logical volume vg0/root", "vhyyIW-0001-0002-0003-0004-0005-abcdef", "kLmNoP-1111-2222-3333-4444-5555-qwerty"}};

inline const std::vector<GroupChange> groups{{"vg0", "7k3", {"root", "swap", "a-b", "home"}},
                                             {"deb-vg", "d4b-2m", {"root"}}};
inline const Renaming renaming{changes, groups};

inline constexpr const char* old_root = "1a2b3c4d-0001-4002-8003-aabbccddeeff";
inline constexpr const char* new_root = "9f8e7d6c-1111-4222-9333-000102030405";

} // namespace kvmport::test
