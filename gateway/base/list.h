// SPDX-License-Identifier: Apache-2.0
// A doubly linked list whose links lie in its members. An unlinked node points to itself, so removal is safe to repeat.
#ifndef ENVGATE_BASE_LIST_H
#define ENVGATE_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
  struct list *next, *prev;
};

// The object of `type` whose `member` is at `ptr`.
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

// Makes an empty list or an unlinked node. Must come before any other use.
static inline void list_init(struct list *l)
{
  l->next = l->prev = l;
}

// An empty list; for a node: not in a list.
static inline bool list_empty(const struct list *l)
{
  return l->next == l;
}

static inline void list_append(struct list *l, struct list *node)
{
  node->prev = l->prev;
  node->next = l;
  l->prev->next = node;
  l->prev = node;
}

static inline void list_prepend(struct list *l, struct list *node)
{
  list_append(l->next, node);
}

static inline void list_remove(struct list *node)
{
  node->prev->next = node->next;
  node->next->prev = node->prev;
  list_init(node);
}

// The first node, removed; NULL from an empty list.
static inline struct list *list_pop(struct list *l)
{
  if (list_empty(l))
    return NULL;
  struct list *node = l->next;
  list_remove(node);
  return node;
}

// Walks a list; the body may remove (and free) the node it is at, and no other.
#define LIST_EACH(node, head) \
  for (struct list *node = (head)->next, *node##_next = node->next; node != (head); node = node##_next, node##_next = node->next)

#endif
