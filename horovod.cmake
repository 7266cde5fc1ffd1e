# Lets Horovod 0.28.1 build against today's torch without editing Horovod.
# Horovod asks CMake for C++14; torch >= 2.1 headers need C++17 and torch >= 2.14 needs C++20.
# Name this file in CMAKE_TOOLCHAIN_FILE (CMake >= 3.21). CMake reads it as a toolchain, where it only names itself
# as the file to include after project(horovod); that second reading is the one that sets the standard.
set(CMAKE_PROJECT_horovod_INCLUDE "${CMAKE_CURRENT_LIST_FILE}")
set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++20")
