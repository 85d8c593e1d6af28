// SPDX-License-Identifier: Apache-2.0
#include "tests/support/lvm_disks.h"

#include "base/process.h"

#include <algorithm>
#include <sstream>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

constexpr std::uint64_t mib = 1U << 20, disk_size = 104 * mib, volume_size = 100 * mib, extent = 4 * mib;

/// A part of a file as a block device, while this lives.
class Loop {
 public:
  Loop(const fs::path& file, std::uint64_t offset)
      : device_(must_run({"losetup", "--find", "--show", "--offset", std::to_string(offset), "--sizelimit",
                          std::to_string(volume_size), file.string()})) {
    device_.erase(device_.find_last_not_of('\n') + 1);
  }
  ~Loop() { run_process({"losetup", "--detach", device_}, std::chrono::seconds(10)); }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  const std::string& device() const { return device_; }

 private:
  std::string device_;
};

std::string run_lvm(std::vector<std::string> words, const std::string& config) {
  words.insert(words.begin(), "lvm");
  words.insert(words.begin() + 2, {"--config", config, "--driverloaded", "n"});
  return must_run(words);
}

} // namespace

LvmDisks::LvmDisks(std::uint64_t start) : start_(start) {
  std::vector<std::unique_ptr<Loop>> loops;
  for (int i = 0; i < 2; i++) {
    const fs::path disk = dir_.path() / std::to_string(i);
    { UniqueFd fd = create_new(disk); }
    fs::resize_file(disk, disk_size);
    if (start > 0)
      must_run({"sh", "-c",
                "printf 'label: gpt\\nstart=2048, size=64, type=21686148-6449-6E6F-744E-656564454649\\nstart=" +
                    std::to_string(start / 512) + ", size=" + std::to_string(volume_size / 512) +
                    ", type=E6D6D379-F507-44C2-A23C-238F2A3DF928\\n' | sfdisk -q " + disk.string()});
    loops.push_back(std::make_unique<Loop>(disk, start));
    loops_.push_back(loops.back()->device());
  }
  const std::string config = config_for(loops_);
  const auto lvm = [&](const std::vector<std::string>& words) { return run_lvm(words, config); };
  const auto report = [&](const std::string& command, const std::string& columns) {
    return lvm({command, "--noheadings", "--units", "b", "--nosuffix", "-o", columns});
  };
  const auto create = [&](const std::string& name, const std::vector<std::string>& options) {
    std::vector<std::string> words{"lvcreate", "-an", "-Zn", "-Wn", "-n", name};
    words.insert(words.end(), options.begin(), options.end());
    lvm(words);
  };
  lvm({"pvcreate", loops_[0], loops_[1]});
  lvm({"vgcreate", "vg-a", loops_[0], loops_[1]});
  create("root", {"-L", "40M", "vg-a", loops_[0]});
  create("gone", {"-L", "20M", "vg-a", loops_[0]});
  create("mixed", {"-L", "60M", "vg-a"});
  create("stripes", {"-L", "24M", "-i", "2", "-I", "64k", "vg-a"});
  lvm({"lvremove", "-f", "vg-a/gone"});
  volumes_ = report("lvs", "lv_name,lv_size,lv_uuid");
  members_ = report("pvs", "pv_uuid,pv_free");
  fill(report("lvs", "lv_name,seg_size,stripes,stripe_size,devices"), std::stoull(report("pvs", "pe_start")));
}

/// Of LVM, that sees these devices alone.
std::string LvmDisks::config_for(const std::vector<std::string>& devices) const {
  std::string filter;
  for (const std::string& device : devices)
    filter += "\"a|^" + device + "$|\", ";
  return "devices { scan = \"/dev\" filter = [ " + filter +
         "\"r|.*|\" ] global_filter = [ \"a|.*|\" ] use_devicesfile = 0 obtain_device_list_from_udev = 0 "
         "external_device_info_source = \"none\" } backup { backup = 0 archive = 0 } global { locking_dir = \"" +
         dir_.path().string() + "\" event_activation = 0 }";
}

std::string LvmDisks::report_of(const std::vector<const Image*>& disks, const std::string& command,
                                const std::string& columns) const {
  const TempDir copies;
  std::vector<std::unique_ptr<Loop>> loops;
  std::vector<std::string> devices;
  for (const Image* disk : disks) {
    const fs::path copy = copies.path() / std::to_string(loops.size());
    Bytes all(disk->size());
    disk->read(0, all);
    const UniqueFd fd = create_new(copy);
    write_exact(fd.get(), 0, all, copy.string());
    loops.push_back(std::make_unique<Loop>(copy, start_));
    devices.push_back(loops.back()->device());
  }
  return run_lvm({command, "--noheadings", "--units", "b", "--nosuffix", "-o", columns}, config_for(devices));
}

/// Makes a filesystem for each volume and copies it piece by piece to where LVM says that the volume lies.
void LvmDisks::fill(const std::string& segments, std::uint64_t pe_start) {
  std::map<std::string, std::uint64_t> done;
  std::istringstream lines(segments);
  for (std::string name, places, line; std::getline(lines, line);) {
    std::uint64_t size = 0, stripes = 0, chunk = 0;
    if (!(std::istringstream(line) >> name >> size >> stripes >> chunk >> places))
      continue;
    const fs::path image = dir_.path() / (name + ".ext4");
    if (!done.contains(name)) {
      std::uint64_t total = 0;
      std::istringstream all(volumes_);
      for (std::string volume, bytes, uuid; all >> volume >> bytes >> uuid;)
        total = volume == name ? std::stoull(bytes) : total;
      must_run({"mke2fs", "-q", "-t", "ext4", "-F", image.string(), std::to_string(total / 1024)});
      std::string uuid = must_run({"blkid", "-p", "-s", "UUID", "-o", "value", image.string()});
      uuid.erase(uuid.find_last_not_of('\n') + 1);
      filesystems_[name] = uuid;
    }
    std::vector<std::pair<std::string, std::uint64_t>> targets; // "/dev/loop0(15),/dev/loop1(3)"
    std::istringstream list(places);
    for (std::string place; std::getline(list, place, ',');) {
      const auto loop = std::ranges::find(loops_, place.substr(0, place.find('(')));
      targets.emplace_back(dir_.path() / std::to_string(loop - loops_.begin()),
                           start_ + pe_start + std::stoull(place.substr(place.find('(') + 1)) * extent);
    }
    const std::uint64_t step = stripes > 1 ? chunk : size;
    UniqueFd from = open_existing(image);
    for (std::uint64_t at = 0, i = 0; at < size; at += step, i++) {
      Bytes bytes(step);
      read_exact(from.get(), done[name] + at, bytes, name);
      const auto& [disk, offset] = targets[i % stripes];
      UniqueFd to = open_existing(disk);
      write_exact(to.get(), offset + i / stripes * step, bytes, disk);
    }
    done[name] += size;
  }
}

std::unique_ptr<Image> LvmDisks::open(int disk) const {
  return open_image(dir_.path() / std::to_string(disk), {.format = "raw", .allowed_directories = {}, .window = {}});
}

std::uint64_t LvmDisks::free_bytes() const {
  std::istringstream lines(members_);
  std::uint64_t sum = 0;
  for (std::string uuid, bytes; lines >> uuid >> bytes;)
    sum += std::stoull(bytes);
  return sum;
}

} // namespace kvmport::test
