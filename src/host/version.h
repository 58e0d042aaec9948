/*
 * version: of the whole; the Makefile reads it from here.
 */
#ifndef UNS_VERSION_H
#define UNS_VERSION_H

#define UNSYNC_VERSION "0.1.0"

#endif
