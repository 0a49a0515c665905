// The text that a function answers Python with, of this thread: nvstate_last_text().

#ifndef NVSTATE_ANSWER_H_
#define NVSTATE_ANSWER_H_

#include <string>

namespace nvstate {

std::string& LastText();

}  // namespace nvstate

#endif  // NVSTATE_ANSWER_H_
