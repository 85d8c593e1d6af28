// SPDX-License-Identifier: Apache-2.0
#include "formats/overlay.h"
#include "formats/readers.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <mutex>
#include <unistd.h>

namespace kvmport {
namespace {

enum State2 : std::uint64_t { clean = 0, dirty_data = 1, dirty_zero = 2 }; // two bits a granule

constexpr std::uint64_t granule = Overlay::granule;
constexpr std::uint64_t per_word = 32;
constexpr std::uint64_t page_words = 512;
constexpr std::uint64_t per_page = per_word * page_words; // 64 MiB of disk in 4 KiB of map

/// Which granules are private. Pages of the map are made when the first granule in them changes, so a disk of 8 TiB
/// that is hardly written costs 1 MiB of pointers. Reading needs no lock.
class DirtyMap {
 public:
  explicit DirtyMap(std::uint64_t granules)
      : granules_(granules), pages_(div_round_up(granules, per_page)), owned_(pages_.size()) {}

  State2 at(std::uint64_t index) const {
    const Page* page = pages_[index / per_page].load(std::memory_order_acquire);
    return page == nullptr ? clean : state_in((*page)[index % per_page / per_word], index);
  }

  /// The first granule from `index` on whose state is not `state`, at most `limit`.
  std::uint64_t run_end(std::uint64_t index, std::uint64_t limit, State2 state) const {
    const std::uint64_t pattern = state * 0x5555555555555555U;
    while (index < limit) {
      const Page* page = pages_[index / per_page].load(std::memory_order_acquire);
      if (page == nullptr) {
        if (state != clean)
          return index;
        index = std::min(limit, (index / per_page + 1) * per_page);
        continue;
      }
      const std::uint64_t word = (*page)[index % per_page / per_word].load(std::memory_order_acquire);
      if (word == pattern) {
        index = std::min(limit, (index / per_word + 1) * per_word);
        continue;
      }
      if ((word >> (index % per_word * 2) & 3) != state)
        return index;
      index++;
    }
    return limit;
  }

  /// Sets granules [first, last) and returns how many of them were data before.
  std::uint64_t set(std::uint64_t first, std::uint64_t last, State2 state) {
    std::uint64_t were_data = 0;
    while (first < last) {
      const std::uint64_t end = std::min(last, (first / per_word + 1) * per_word);
      const std::uint64_t bits = (end - first) * 2;
      const std::uint64_t mask = (bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1)
                                 << (first % per_word * 2);
      auto& word = page_for(first)[first % per_page / per_word];
      std::uint64_t old = word.load(std::memory_order_relaxed);
      while (!word.compare_exchange_weak(old, (old & ~mask) | (state * 0x5555555555555555U & mask),
                                         std::memory_order_acq_rel)) {
      }
      were_data += static_cast<std::uint64_t>(std::popcount(old & mask & 0x5555555555555555U));
      first = end;
    }
    return were_data;
  }

  std::uint64_t count_data(std::uint64_t first, std::uint64_t last) const {
    std::uint64_t count = 0;
    while (first < last) {
      const State2 state = at(first);
      const std::uint64_t end = std::max(first + 1, run_end(first, last, state));
      if (state == dirty_data)
        count += end - first;
      first = end;
    }
    return count;
  }

  std::uint64_t size() const { return granules_; }

  void clear() {
    for (auto& page : owned_)
      if (page)
        for (auto& word : *page)
          word.store(0, std::memory_order_release);
  }

 private:
  using Page = std::array<std::atomic<std::uint64_t>, page_words>;

  static State2 state_in(const std::atomic<std::uint64_t>& word, std::uint64_t index) {
    return static_cast<State2>(word.load(std::memory_order_acquire) >> (index % per_word * 2) & 3);
  }

  Page& page_for(std::uint64_t index) {
    auto& slot = pages_[index / per_page];
    if (Page* page = slot.load(std::memory_order_acquire))
      return *page;
    const std::lock_guard lock(mutex_);
    auto& owner = owned_[index / per_page];
    if (!owner) {
      owner = std::make_unique<Page>();
      slot.store(owner.get(), std::memory_order_release);
    }
    return *owner;
  }

  std::uint64_t granules_;
  std::vector<std::atomic<Page*>> pages_;
  std::vector<std::unique_ptr<Page>> owned_;
  std::mutex mutex_;
};

} // namespace

struct Overlay::State {
  State(const Image& below, const std::filesystem::path& directory, std::uint64_t most)
      : base(below), size(below.size()), cap(most), name("the overlay's temporary file in " + directory.string()),
        file(open_unnamed(directory)), map(div_round_up(below.size(), granule)) {
    if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0)
      throw system_error(errno, "can't size " + name);
  }

  const Image& base;
  const std::uint64_t size, cap;
  const std::string name;
  UniqueFd file;
  DirtyMap map;
  std::atomic<std::uint64_t> data_granules{0};
  std::array<std::mutex, 64> partial; ///< guard granules that are written in part, by index

  /// Byte range of granules [first, last), cut at the end of the disk.
  Range bytes_of(std::uint64_t first, std::uint64_t last) const {
    return {first * granule, std::min(size, last * granule) - first * granule};
  }

  void check(std::uint64_t offset, std::uint64_t length) const {
    if (offset > size || length > size - offset)
      throw Error("OUT_OF_RANGE", "access past the end of the disk",
                  std::to_string(length) + " bytes at " + std::to_string(offset) + " of " + std::to_string(size));
  }

  /// Takes room for granules [first, last); returns how many it took.
  std::uint64_t reserve(std::uint64_t first, std::uint64_t last) {
    const std::uint64_t need = (last - first) - map.count_data(first, last);
    if ((data_granules.fetch_add(need) + need) * granule > cap) {
      data_granules.fetch_sub(need);
      throw Error("OVERLAY_FULL", "the changes to the disk need more than " + std::to_string(cap) + " bytes");
    }
    return need;
  }

  /// Marks [first, last) as data after `reserved` granules were taken for it.
  void commit(std::uint64_t first, std::uint64_t last, std::uint64_t reserved) {
    const std::uint64_t added = (last - first) - map.set(first, last, dirty_data);
    data_granules.fetch_sub(reserved - added);
  }

  void write_full(std::uint64_t first, std::uint64_t last, ByteSpan data) {
    if (first == last)
      return;
    const std::uint64_t reserved = reserve(first, last);
    try {
      write_exact(file.get(), first * granule, data, name);
    } catch (...) {
      data_granules.fetch_sub(reserved);
      throw;
    }
    commit(first, last, reserved);
  }

  /// Puts `length` bytes (from `data`, or zeros when it is null) at `offset`, all inside one granule.
  void write_partial(std::uint64_t offset, std::uint64_t length, const std::byte* data) {
    const std::uint64_t index = offset / granule;
    const std::lock_guard lock(partial[index % partial.size()]);
    const Range range = bytes_of(index, index + 1);
    const State2 state = map.at(index);
    std::array<std::byte, granule> buffer{};
    const std::span<std::byte> bytes(buffer.data(), range.length);
    if (state == clean)
      base.read(range.offset, bytes);
    else if (state == dirty_data)
      read_exact(file.get(), range.offset, bytes, name);
    else if (data == nullptr)
      return; // zeros in zeros
    if (data != nullptr)
      std::copy_n(data, length, bytes.begin() + static_cast<std::ptrdiff_t>(offset - range.offset));
    else
      std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset - range.offset), length, std::byte{0});
    write_full(index, index + 1, bytes);
  }

  void zero_full(std::uint64_t first, std::uint64_t last) {
    if (first == last)
      return;
    const std::uint64_t freed = map.set(first, last, dirty_zero);
    data_granules.fetch_sub(freed);
    if (freed == 0)
      return;
    const Range range = bytes_of(first, last);
    // Only gives space back: what the map calls zero is never read from the file.
    (void)::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.offset),
                      static_cast<off_t>(range.length));
  }

  /// Calls partial(offset, length) for the granules that [offset, offset+length) covers in part, and full(first, last)
  /// for those that it covers whole (the last granule of the disk may be short).
  template <class Partial, class Full> void split(std::uint64_t offset, std::uint64_t length, Partial part, Full full) {
    if (length == 0)
      return;
    const std::uint64_t end = offset + length;
    const std::uint64_t first = div_round_up(offset, granule);
    const std::uint64_t last = end == size ? map.size() : end / granule;
    if (first > last || (first == last && offset % granule != 0 && end <= first * granule)) {
      part(offset, length); // inside one granule
      return;
    }
    if (const std::uint64_t head = first * granule - offset; head != 0)
      part(offset, head);
    if (first < last)
      full(first, last);
    if (last * granule < end && last < map.size())
      part(last * granule, end - last * granule);
  }
};

Overlay::Overlay(const Image& base, const std::filesystem::path& directory, std::uint64_t cap)
    : state_(std::make_unique<State>(base, directory, cap)) {}
Overlay::~Overlay() = default;

std::uint64_t Overlay::size() const {
  return state_->size;
}

ImageInfo Overlay::info() const {
  return state_->base.info();
}

std::vector<Extent> Overlay::extents(Range range) const {
  state_->check(range.offset, range.length);
  std::vector<Extent> list;
  if (range.length == 0)
    return list;
  const std::uint64_t limit = (range.end() - 1) / granule + 1;
  for (std::uint64_t i = range.offset / granule; i < limit;) {
    const State2 state = state_->map.at(i);
    const std::uint64_t end = std::max(i + 1, state_->map.run_end(i, limit, state));
    const std::uint64_t from = std::max(range.offset, i * granule), to = std::min(range.end(), end * granule);
    if (state == clean) {
      for (const Extent& extent : state_->base.extents({from, to - from}))
        append_extent(list, extent);
    } else {
      append_extent(list, {{from, to - from}, state == dirty_data ? ExtentKind::data : ExtentKind::zero});
    }
    i = end;
  }
  return list;
}

void Overlay::read(std::uint64_t offset, std::span<std::byte> out) const {
  state_->check(offset, out.size());
  const std::uint64_t end = offset + out.size();
  const std::uint64_t limit = div_round_up(end, granule);
  while (offset < end) {
    const std::uint64_t index = offset / granule;
    const State2 state = state_->map.at(index);
    const std::uint64_t run = std::max(index + 1, state_->map.run_end(index, limit, state));
    const std::span<std::byte> part = out.first(std::min(end, run * granule) - offset);
    if (state == clean)
      state_->base.read(offset, part);
    else if (state == dirty_data)
      read_exact(state_->file.get(), offset, part, state_->name);
    else
      std::fill(part.begin(), part.end(), std::byte{0});
    out = out.subspan(part.size());
    offset += part.size();
  }
}

void Overlay::write(std::uint64_t offset, ByteSpan data) {
  state_->check(offset, data.size());
  state_->split(
      offset, data.size(),
      [&](std::uint64_t at, std::uint64_t length) { state_->write_partial(at, length, data.data() + (at - offset)); },
      [&](std::uint64_t first, std::uint64_t last) {
        const Range range = state_->bytes_of(first, last);
        state_->write_full(first, last, data.subspan(range.offset - offset, range.length));
      });
}

void Overlay::zero(Range range) {
  state_->check(range.offset, range.length);
  state_->split(
      range.offset, range.length,
      [&](std::uint64_t at, std::uint64_t length) { state_->write_partial(at, length, nullptr); },
      [&](std::uint64_t first, std::uint64_t last) { state_->zero_full(first, last); });
}

void Overlay::clear() {
  state_->map.clear();
  state_->data_granules = 0;
  if (::ftruncate(state_->file.get(), 0) != 0 || ::ftruncate(state_->file.get(), static_cast<off_t>(state_->size)) != 0)
    throw system_error(errno, "can't empty " + state_->name);
}

std::vector<Extent> Overlay::dirty() const {
  std::vector<Extent> list;
  for (std::uint64_t i = 0; i < state_->map.size();) {
    const State2 state = state_->map.at(i);
    const std::uint64_t end = std::max(i + 1, state_->map.run_end(i, state_->map.size(), state));
    if (state != clean)
      append_extent(list, {state_->bytes_of(i, end), state == dirty_data ? ExtentKind::data : ExtentKind::zero});
    i = end;
  }
  return list;
}

std::uint64_t Overlay::used() const {
  return state_->data_granules.load() * granule;
}

void import_changes(const Overlay& from, Overlay& to) {
  if (from.size() != to.size())
    throw Error("SIZE_MISMATCH", "changes of one disk can't go over a disk of another size",
                std::to_string(from.size()) + " and " + std::to_string(to.size()) + " bytes");
  constexpr std::uint64_t piece = 1U << 20;
  Bytes buffer;
  for (const Extent& extent : from.dirty()) {
    if (extent.kind == ExtentKind::zero) {
      to.zero(extent.range);
      continue;
    }
    for (std::uint64_t at = extent.range.offset; at < extent.range.end(); at += buffer.size()) {
      buffer.resize(std::min(piece, extent.range.end() - at));
      from.read(at, buffer);
      to.write(at, buffer);
    }
  }
}

} // namespace kvmport
