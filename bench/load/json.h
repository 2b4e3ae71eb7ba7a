/* As much JSON as is needed to read a server's frames: members of an object, and comparing strings. */
#ifndef JSON_H
#define JSON_H

#include "common.h"

/* Find the raw value of a member of the object that `text` is. False when there is none, or `text` is no object. */
bool json_member(struct span text, const char *name, struct span *value);

/* Whether a raw value is this string, escapes undone. */
bool json_is(struct span value, const char *string);

/* Append a string's text with " and \ escaped; returns the end. */
char *json_escape(char *out, struct span text);

#endif
