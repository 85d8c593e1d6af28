// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <cerrno>
#include <system_error>

namespace kvmport {
namespace {

std::string full_text(const std::string& what, const std::string& why, const std::string& hint) {
  std::string text = what;
  if (!why.empty())
    text += ": " + why;
  if (!hint.empty())
    text += " (" + hint + ")";
  return text;
}

} // namespace

Error::Error(std::string code, std::string what, std::string why, std::string hint)
    : std::runtime_error(full_text(what, why, hint)), code_(std::move(code)), what_(std::move(what)),
      why_(std::move(why)), hint_(std::move(hint)) {}

Error Error::within(std::string_view context) const {
  return {code_, std::string(context) + ": " + what_, why_, hint_};
}

Error system_error(int errnum, std::string_view what) {
  const std::string why = std::generic_category().message(errnum);
  switch (errnum) {
  case EACCES:
  case EPERM:
  case EROFS:
    return {"NO_PERMISSION", std::string(what), why, "check the owner and mode, or run as a user who may"};
  case ENOENT:
  case ENOTDIR:
    return {"NOT_FOUND", std::string(what), why};
  case ENOSPC:
  case EDQUOT:
  case EFBIG:
    return {"DISK_FULL", std::string(what), why, "free space there, or name another directory"};
  default:
    return {"IO_ERROR", std::string(what), why};
  }
}

} // namespace kvmport
