// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/clone_disk.h"

#include "formats/qcow2_edit.h"

#include <cerrno>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

/// The disk is one file, whose bytes are a raw or qcow2 image: it can be copied as it is.
bool is_plain_file(const Image& image, const MachineDisk& disk) {
  const std::string format = image.info().format;
  return disk.window.length == 0 && !disk.gzip && disk.more_pieces.empty() && image.info().files.size() == 1 &&
         (format == "raw" || format == "qcow2") && fs::is_regular_file(disk.path);
}

/// Nobody may read a clone who could not read its source.
void take_permissions(const fs::path& from, const fs::path& to) {
  struct stat st {};
  if (::stat(from.c_str(), &st) != 0 || ::chmod(to.c_str(), (st.st_mode & 0666) | S_IRUSR | S_IWUSR) != 0)
    throw system_error(errno, "can't set the permissions of " + to.string());
}

} // namespace

std::string to_string(CloneWay way) {
  switch (way) {
  case CloneWay::reflink:
    return "reflink";
  case CloneWay::copy:
    return "copy";
  case CloneWay::linked:
    return "linked";
  case CloneWay::flatten:
    break;
  }
  return "flatten";
}

CloneDisk::CloneDisk(const Image& image, const MachineDisk& described, const fs::path& stem, CloneMode mode)
    : image_(image), described_(described), format_(image.info().format == "raw" ? "raw" : "qcow2") {
  choose_way(mode);
  target_ = stem.string() + (format_ == "raw" ? ".img" : ".qcow2");
  partial_ = target_.string() + ".partial";
}

void CloneDisk::choose_way(CloneMode mode) {
  if (mode == CloneMode::linked) {
    way_ = CloneWay::linked;
    format_ = "qcow2";
    if (described_.window.length != 0 || described_.gzip || !described_.more_pieces.empty())
      throw Error("CLONE_UNSUPPORTED", described_.path.string() + " can't be the base of a linked clone",
                  "the disk is not the whole of one file", "use --full");
    return;
  }
  std::string why;
  if (mode == CloneMode::flatten)
    why = "--flatten";
  else if (!is_plain_file(image_, described_))
    why = image_.info().files.size() > 1 ? "it is a chain of files" : "it is no qcow2 or raw file";
  else if (format_ == "qcow2")
    why = Qcow2Editor::unsupported(described_.path);
  if (why.empty())
    return;
  way_ = CloneWay::flatten;
  if (mode != CloneMode::flatten)
    notes_.push_back(described_.path.string() + " is written anew as one file: " + why);
}

CloneDisk::~CloneDisk() = default;

void CloneDisk::make(EventSink& sink, const StopToken& stop) {
  if (way_ == CloneWay::linked)
    link();
  else if (way_ == CloneWay::flatten)
    flatten(sink, stop);
  else if (!reflink())
    copy_file(sink, stop);
}

/// The file system shares the blocks until one side writes (ioctl_ficlone(2)). Under a name of its own, so that what an
/// earlier run copied stays where that can't be.
bool CloneDisk::reflink() {
  const fs::path trial = target_.string() + ".reflink.partial";
  bool done = false;
  {
    const UniqueFd from = open_source(described_.path), to = create_or_empty(trial);
    take_permissions(described_.path, trial);
    done = ::ioctl(to.get(), FICLONE, from.get()) == 0 && ::fsync(to.get()) == 0;
  }
  if (done)
    fs::rename(trial, partial_);
  else
    fs::remove(trial);
  return done;
}

/// The same bytes, whatever they mean.
void CloneDisk::copy_file(EventSink& sink, const StopToken& stop) {
  way_ = CloneWay::copy;
  bytes_ = open_image(described_.path, {.format = "raw", .allowed_directories = {}, .window = {}});
  CreateOptions create;
  create.format = "raw";
  create.size = bytes_->size();
  check_space(target_.parent_path(), estimate_size(*bytes_, {}, create));
  copy_ = std::make_unique<PartialDisk>(target_, create, image_identity(*bytes_));
  take_permissions(described_.path, partial_);
  copy_->copy(*bytes_, {}, sink, stop);
  copy_->finish();
}

void CloneDisk::flatten(EventSink& sink, const StopToken& stop) {
  CreateOptions create;
  create.format = format_;
  create.size = image_.size();
  CopyOptions options;
  FreeMap map = find_free_blocks(image_);
  options.skip = std::move(map.free);
  check_space(target_.parent_path(), estimate_size(image_, options.skip, create));
  std::string id = image_identity(image_);
  for (const Range& range : options.skip)
    id += "\nskip " + std::to_string(range.offset) + "+" + std::to_string(range.length);
  copy_ = std::make_unique<PartialDisk>(target_, create, id);
  take_permissions(described_.path, partial_);
  copy_->copy(image_, options, sink, stop);
}

void CloneDisk::link() const {
  const fs::path base = fs::weakly_canonical(described_.path);
  const fs::path relative = base.lexically_relative(fs::weakly_canonical(fs::absolute(target_)).parent_path());
  std::string name = relative.string();
  if (name.substr(0, name.find('/')).find(':') != std::string::npos)
    name.insert(0, "./"); // else QEMU takes what stands before the colon for a protocol
  const std::string format = image_.info().format;
  fs::remove(partial_);
  create_qcow2_over(partial_, image_.size(), name, format == "vhd" ? "vpc" : format); // as QEMU calls it
  take_permissions(described_.path, partial_);
}

void CloneDisk::complete(const Overlay* changes, EventSink& sink, const StopToken& stop) {
  if (way_ == CloneWay::flatten) {
    if (changes != nullptr)
      copy_->merge(*changes, sink, stop);
    copy_->finish();
  } else if (changes != nullptr) {
    edit(*changes);
  }
}

void CloneDisk::edit(const Overlay& changes) const {
  const auto each = [&](const auto& write) {
    Bytes bytes;
    for (const Extent& extent : changes.dirty())
      for (std::uint64_t at = extent.range.offset; at < extent.range.end(); at += bytes.size()) {
        bytes.resize(std::min<std::uint64_t>(1U << 20, extent.range.end() - at));
        changes.read(at, bytes);
        write(at, bytes);
      }
  };
  if (format_ == "qcow2") {
    Qcow2Editor editor(partial_);
    each([&](std::uint64_t at, ByteSpan bytes) { editor.write(at, bytes, image_); });
    editor.finish();
    return;
  }
  const UniqueFd fd = open_existing(partial_);
  each([&](std::uint64_t at, ByteSpan bytes) { write_exact(fd.get(), at, bytes, partial_.string()); });
  if (::fsync(fd.get()) != 0)
    throw system_error(errno, "can't sync " + partial_.string());
}

void CloneDisk::discard() {
  if (copy_)
    copy_->discard();
  std::error_code ignored;
  fs::remove(partial_, ignored);
}

std::vector<std::string> CloneDisk::leftovers() const {
  if (!copy_)
    return {};
  return {partial_.filename().string() + ".journal"};
}

} // namespace kvmport
